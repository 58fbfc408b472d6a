"""Language models in use by several callers at once, texts with special tokens and odd characters, and ends of texts."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import anyorder
from anyorder import LanguageModel, infill
from anyorder.batch import Plan, run_batch
from anyorder.cli.language import LanguageSession
from anyorder.decoding.blocks import open_block
from anyorder.decoding.caches import Window
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.serving.engine import Engine
from anyorder.serving.service import Limits, Service
from anyorder.serving.texts import Texts
from anyorder.session import Session
from anyorder.state import init
from conftest import HashDenoiser
from tiny_block_models import model_of
from tiny_llada import END, MASK, START, save_llada, save_tokenizer
from tiny_server import serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llada(tmp_path_factory.mktemp("models") / "llada")


@pytest.fixture
def llada(folder: Path) -> HuggingFaceDenoiser:
    """A model that often ends its texts."""
    denoiser: Any = anyorder.load_denoiser(folder, trust_remote_code=True, device="cpu")
    with torch.no_grad():
        denoiser.model.model.ff_out.weight[END] = 1.5 * denoiser.model.model.ff_out.weight[169]
    return denoiser


def bert() -> HuggingFaceDenoiser:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "dog", "ran"]
    tokenizer = transformers.BertTokenizerFast(vocab={name: number for number, name in enumerate(names)})
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(names), max_position_embeddings=32, **sizes)
    return HuggingFaceDenoiser(
        transformers.BertForMaskedLM(config).eval(), 4, [0, 1, 2, 3], pad_token_id=0, tokenizer=tokenizer
    )


# ---- one denoiser, several callers ------------------------------------------------------------------------------------------


def test_completing_a_text_does_not_keep_a_model_from_ending_its_answers(llada: HuggingFaceDenoiser) -> None:
    model = LanguageModel(llada)
    prompts = [model.prompt(text) for text in ("Hi", "What is this?", "Why?", "Who?")]
    before = model.generate(prompts, 24)
    assert any(len(answer.tokens) < 24 for answer in before)
    filled = model.fill("the [MASK:2] cat")
    assert filled == infill(llada, "the [MASK:2] cat")
    assert model.generate(prompts, 24) == before


def test_a_hole_holds_no_end_also_where_the_model_may_end_its_answers(llada: HuggingFaceDenoiser) -> None:
    LanguageModel(llada)
    assert END not in llada.forbidden
    seen: list[torch.Tensor] = []
    infill(llada, "the [MASK:12] cat", on_step=lambda output: seen.append(output.after.tokens))
    assert not bool((seen[-1] == END).any())
    ended: list[torch.Tensor] = []
    infill(llada, "Why? [MASK:12]", eos_token_id=END, on_step=lambda output: ended.append(output.after.tokens))
    assert bool((ended[-1] == END).any()), "unless it is asked for"


def test_a_second_user_of_a_model_changes_no_answer_of_the_first(llada: HuggingFaceDenoiser) -> None:
    model = LanguageModel(llada)
    prompt = model.prompt("What is this?")
    before = model.generate([prompt], 12)
    LanguageModel(llada, chat=False)
    Texts(llada)
    assert model.generate([prompt], 12) == before


def test_every_token_of_a_prompt_is_read_whatever_the_padding(llada: HuggingFaceDenoiser) -> None:
    model = LanguageModel(llada, chat=False)
    for token in (START, llada.pad_token_id):
        prompt = [token, *model.prompt("Once")]
        tokens = torch.tensor([prompt])
        ends: Any = model.ends
        every = torch.ones_like(tokens)
        seen = anyorder.generate(llada, tokens, every, 12, eos_token_id=ends.tokens, pad_token_id=ends.pad)[0, -12:].tolist()
        kept = seen[: seen.index(END)] if END in seen else seen
        assert model.generate([prompt], 12)[0].tokens == kept


# ---- texts with holes -------------------------------------------------------------------------------------------------------


def test_white_space_of_a_text_is_read_and_returned(llada: HuggingFaceDenoiser) -> None:
    seen: list[list[int]] = []
    for text in ("x = 1\n[MASK:3]\ny", "x = 1\t[MASK:3]", "  if a: [MASK:2]\n"):
        start, _, after = text.partition("[MASK")
        filled = infill(llada, text, on_step=lambda output: seen.append(output.before.tokens[0].tolist()))
        assert filled.startswith(start.rstrip(" ")) and filled.endswith(after[3:])
        first = next(row for row in seen if MASK in row)
        assert llada.tokenizer.decode(first[: first.index(MASK)]) == start.rstrip(" ")
        seen.clear()


def test_special_tokens_that_a_user_writes_stay_in_the_text(llada: HuggingFaceDenoiser) -> None:
    denoiser = bert()
    plain = infill(denoiser, "the cat sat [SEP] the dog [MASK]")
    assert plain.startswith("the cat sat [SEP] the dog ") and len(plain.split()) == 7
    assert infill(denoiser, "the cat [PAD] sat [MASK]").startswith("the cat [PAD] sat ")
    assert len(infill(denoiser, "the cat [MASK:2]").split()) == 4, "without the frame"
    assert infill(llada, "<|startoftext|>hi<|eot_id|> [MASK:2] yo").startswith("<|startoftext|>hi<|eot_id|>")


def test_texts_that_are_no_unicode_are_one_error(llada: HuggingFaceDenoiser) -> None:
    model = LanguageModel(llada)
    for call in (lambda: model.prompt("hi \ud83d"), lambda: infill(llada, "a\udcff [MASK]")):
        with pytest.raises(BadInput, match=r"not valid Unicode: character \d+ is half of a surrogate pair"):
            call()


# ---- serving ----------------------------------------------------------------------------------------------------------------


def test_what_looks_like_a_hole_is_text_in_a_request(llada: HuggingFaceDenoiser) -> None:
    texts = Texts(llada)
    assert texts.prompt("Let x_{1} = 2.").before == LanguageModel(llada, chat=False).prompt("Let x_{1} = 2.")
    with pytest.raises(BadInput, match="not know"):
        Texts(bert()).prompt("the bird")


def test_a_model_of_framed_texts_produces_no_frame_in_the_middle() -> None:
    denoiser = bert()
    LanguageModel(denoiser)  # which lets it end its answers
    service = Service(denoiser, "bert")
    try:
        assert 3 in denoiser.forbidden and service.texts.ends is None
    finally:
        service.engine.close()


def test_a_cache_that_a_model_cannot_use_is_refused_before_it_is_served(llada: HuggingFaceDenoiser) -> None:
    with pytest.raises(BadInput, match="cache"):
        Service(llada, "tiny", ["confidence@blocks:4@cache:dual"])


def test_half_an_emoji_and_a_request_beyond_the_queue_are_bad_requests(llada: HuggingFaceDenoiser) -> None:
    import http.client

    service = Service(llada, "tiny", limits=Limits(max_queue=2, max_rows=8))
    try:
        with serving(service) as address:

            def post(body: str) -> tuple[int, str]:
                connection = http.client.HTTPConnection(address.split("//")[1], timeout=60)
                connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()

            status, said = post('{"prompt": "hi \\ud83d", "max_tokens": 4}')
            assert status == 400 and "Unicode" in said
            status, said = post(json.dumps({"prompt": "hi", "max_tokens": 4, "n": 3}))
            assert status == 400 and "ask for fewer" in said
            neutral = {"tool_choice": "none", "service_tier": "auto"}
            assert post(json.dumps({"prompt": "hi", "max_tokens": 2, **neutral}))[0] == 200
    finally:
        service.engine.close()


def test_more_rows_than_places_never_wait() -> None:
    engine = Engine(HashDenoiser(), 5, max_queue=1)
    try:
        with pytest.raises(BadInput, match="has 1 places"):
            engine.submit([None, None])  # type: ignore[list-item]
    finally:
        engine.close()


# ---- batches ----------------------------------------------------------------------------------------------------------------


def test_a_prompt_with_too_many_blocks_stops_no_other_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    model, tokenizer = model_of("SDAR", vocab_size=272), save_tokenizer(tmp_path / "tokenizer", chat=False)

    def opened() -> LanguageSession:
        made = LanguageModel(HuggingFaceDenoiser(model, MASK, [START], tokenizer=tokenizer, block_length=4))
        made.sampler = made.sampler.replace(steps=2)
        return LanguageSession(made, 8, 0)

    parquet.write_table(pyarrow.table({"prompt": ["aaaa", "bbbbb", "cccc"]}), tmp_path / "prompts.parquet")
    run_batch(Plan(tmp_path / "prompts.parquet", tmp_path / "out", opened, {}, 10, 2))
    rows = parquet.read_table(tmp_path / "out" / "part-000000.parquet").to_pylist()
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert "too few for 3 blocks" in rows[1]["error"] and rows[0]["answer"] is not None


# ---- caches, ends, arguments ------------------------------------------------------------------------------------------------


def test_a_window_does_not_count_padding_as_distance() -> None:
    mask = 4
    alone = init(torch.tensor([[7, 8, 9, mask, mask]]), mask)
    near = Window(2)(alone, open_block(alone, 2))
    known = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1]]).bool()
    padded = init(torch.tensor([[0, 7, 8, 9, 0, 0, mask, mask]]), mask, attention_mask=known)
    found = Window(2)(padded, open_block(padded, 2))
    assert near.tolist() == [[False, True, True, True, True]]
    assert found[known].tolist() == near[0].tolist() and not bool(found[~known].any())


class SureOfTheEnd:
    """Is sure of the end from the second new token on, and of nothing else."""

    mask_token_id, vocab_size, hidden_size = 4, 5, 1

    def __call__(self, tokens: torch.Tensor, attention_mask: Any = None, positions: Any = None) -> DenoiserOutput:
        logits = torch.zeros(*tokens.shape, 5)
        logits[..., 0], logits[:, 3:, 2], logits[..., 4] = 1.0, 9.0, -torch.inf
        return DenoiserOutput(logits if positions is None else logits[positions], torch.zeros(*tokens.shape, 1))


@pytest.mark.parametrize("count", ["threshold:0.9", "factor", "entropy_bound", "klass", "entropy_share", "linear", "fixed:3"])
def test_ends_come_last_under_every_count_rule(count: str) -> None:
    steps: list[list[int]] = []
    anyorder.generate(
        SureOfTheEnd(), [[1, 1]], max_new_tokens=6, eos_token_id=2, eos_penalty=math.inf, sampler=f"confidence@{count}",
        on_step=lambda output: steps.append(output.selected[0].nonzero()[:, 0].tolist()),
    )  # fmt: skip
    assert steps[0][0] == 2, "the token that is no end"
    assert (count == "fixed:3") == (len(steps[0]) > 1)


@pytest.mark.parametrize("count", ["threshold:0.9", "entropy_share", "linear"])
def test_ends_come_last_in_every_command(count: str) -> None:
    ends = Ends((2,))
    session = Session(SimpleNamespace(stops_at=ends), None, SureOfTheEnd(), {}, True)  # type: ignore[arg-type]
    late = session.late_ends(Sampler.parse(f"confidence@{count}", steps=6), math.inf)
    result = decode(SureOfTheEnd(), torch.tensor([[1, 1, 4, 4, 4, 4, 4, 4]]), late)
    first = (result.commit_step[0] == 0).nonzero()[:, 0].tolist()
    assert first[0] == 2 and int(result.tokens[0, 2]) == 0, "the token that is no end"


def test_tokens_that_are_none_are_refused(llada: HuggingFaceDenoiser) -> None:
    model = bert().model
    for token in (-1, 400):
        with pytest.raises(BadInput, match="suppress_tokens"):
            anyorder.generate(model, [[5, 6]], max_new_tokens=2, mask_token_id=4, suppress_tokens=[token])
    model.config.pad_token_id = -1
    found = anyorder.generate(model, [[5, 6]], max_new_tokens=4, mask_token_id=4, eos_token_id=7)
    assert min(found[0].tolist()) >= 0
