"""`anyorder serve` with models of Hugging Face: chat templates, bytes, and texts between two frames."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="models of Hugging Face need: pip install 'anyorder[hf]'")
pytest.importorskip("uvicorn", reason="the tests of `anyorder serve` need: pip install 'anyorder[serve]'")
openai = pytest.importorskip("openai", reason="the tests of `anyorder serve` need the client: pip install openai")

from anyorder.decoding.loop import decode  # noqa: E402
from anyorder.decoding.sampler import Sampler  # noqa: E402
from anyorder.denoisers.huggingface import HuggingFaceDenoiser  # noqa: E402
from anyorder.interfaces.generate import generate  # noqa: E402
from anyorder.serving.engine import Engine  # noqa: E402
from anyorder.serving.service import Service  # noqa: E402
from anyorder.serving.texts import Texts  # noqa: E402
from anyorder.zoo import load_denoiser  # noqa: E402
from tiny_block_models import MASK, model_of  # noqa: E402
from tiny_llada import END, TURN_END, save_llada  # noqa: E402
from tiny_server import serving, until  # noqa: E402

TURNS = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hé?"}]


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_denoiser(save_llada(tmp_path_factory.mktemp("llada") / "tiny"), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def client(llada: Any) -> Iterator[Any]:
    with serving(Service(llada, "tiny")) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def bert() -> HuggingFaceDenoiser:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    model = transformers.BertForMaskedLM(config).eval()
    return HuggingFaceDenoiser(model, 4, [0, 1, 2, 3], pad_token_id=0, tokenizer=tokenizer)


def test_a_conversation_goes_through_the_chat_template_and_its_turns_end_answers(llada: Any, client: Any) -> None:
    texts = Texts(llada)
    assert texts.ends is not None and set(texts.ends.tokens) == {END, TURN_END}
    said = client.chat.completions.create(model="tiny", messages=TURNS, max_tokens=16)
    prompt = llada.tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, tokenize=False)
    tokens = llada.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert said.usage.prompt_tokens == len(tokens)
    filled = generate(
        llada, torch.tensor(tokens), max_new_tokens=16, eos_token_id=texts.ends.tokens, pad_token_id=texts.pad_token_id
    )
    assert said.choices[0].message.content == texts.text(filled[-16:].tolist())


def test_half_a_character_is_not_sent(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "é", "max_tokens": 48, "temperature": 4.0, "seed": 1}
    for order in ("left_to_right", "random"):
        whole = client.completions.create(**asked, extra_body={"order": order}).choices[0].text
        parts = client.completions.create(**asked, extra_body={"order": order}, stream=True)
        assert "".join(part.choices[0].text for part in parts) == whole


def test_a_masked_language_model_fills_between_prompt_and_suffix() -> None:
    denoiser = bert()
    texts = Texts(denoiser)
    assert texts.ends is None
    assert texts.prompt("the cat", "the mat") == ([2, 5, 6], [5, 9, 3])
    with serving(Service(denoiser, "bert")) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        said = client.completions.create(model="bert", prompt="the cat", suffix="the mat", max_tokens=2)
        assert (said.choices[0].finish_reason, said.usage.completion_tokens) == ("length", 2)
        assert set(said.choices[0].text.split()) <= {"the", "cat", "sat", "on", "mat"}
        with pytest.raises(openai.BadRequestError, match="no chat template: use /v1/completions"):
            client.chat.completions.create(model="bert", messages=TURNS)
        with pytest.raises(openai.BadRequestError, match="does not know 'dog'"):
            client.completions.create(model="bert", prompt="the dog")


class Row:
    """A job of the engine that keeps what becomes of it."""

    steps, seed, cancelled, key = None, 0, False, "same"

    def __init__(self, tokens: list[int], sampler: Sampler) -> None:
        self.tokens, self.sampler, self.result = tokens, sampler, None

    def step(self, tokens: list[int], selected: list[bool], remasked: list[bool], over: bool) -> bool:
        if over:
            self.result = tokens[: len(self.tokens)]
        return over

    def fail(self, error: Exception) -> None:
        self.result = error


def test_a_model_of_block_diffusion_is_served_in_its_own_blocks() -> None:
    denoiser = HuggingFaceDenoiser(model_of("SDAR"), MASK, block_length=4)
    sampler = Sampler("confidence").bind(denoiser)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 1]]
    rows = [Row([*prompt, *[MASK] * 9], sampler) for prompt in prompts]
    engine = Engine(denoiser, 0)
    engine.submit(rows)
    until(lambda: all(row.result is not None for row in rows))
    engine.close()
    for row in rows:
        assert row.result == decode(denoiser, torch.tensor([row.tokens]), sampler).tokens[0].tolist()
