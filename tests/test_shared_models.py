"""Models as other people have them: used by several threads, compiled, with code that ignores the mask or needs another one,
with more outputs than tokens."""

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.decoding.loop import decode
from anyorder.denoisers.base import evaluating
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.padding import depends_on_padding
from anyorder.errors import BadInput
from anyorder.interfaces.generate import generate
from anyorder.interfaces.llada import generate as llada
from anyorder.tasks.residues import residues_of

transformers = pytest.importorskip("transformers")

MASK, WORDS = 4, 30
needs_esmc = pytest.mark.skipif(not hasattr(transformers, "EsmcConfig"), reason="this version of transformers has no ESMC")


def bert(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes | {"initializer_range": 0.8} | changes)
    config.mask_token_id = MASK
    return transformers.BertForMaskedLM(config).eval()


class Ignores(nn.Module):
    """LLaDA-8B's own code takes an attention mask and ignores it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.model = bert(seed)
        self.config = self.model.config

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return self.model(input_ids)


def test_eight_threads_on_one_model_get_the_tokens_of_one() -> None:
    model = bert().train()  # dropout, which decoding must turn off for all of them
    prompts = [torch.randint(5, WORDS, (1, 3), generator=torch.Generator().manual_seed(i)) for i in range(16)]
    expected = [generate(model, prompt, max_new_tokens=3) for prompt in prompts]
    found: dict[tuple[int, int], Tensor] = {}
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for call in range(100):
                found[thread, call] = generate(model, prompts[call % 16], max_new_tokens=3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 800
    assert all(torch.equal(tokens, expected[call % 16]) for (_, call), tokens in found.items())
    assert model.training, "the model was not handed back as it was"


def test_a_call_of_the_model_in_another_thread_is_left_alone() -> None:
    model = bert()
    tokens = torch.tensor([[7, MASK, 8]])
    whole = model(tokens).logits.shape
    seen: list[torch.Size] = []

    class Beside(HuggingFaceDenoiser):
        def forward(self, *inputs: Any, **more: Any) -> Any:
            hook = model.bert.register_forward_pre_hook(self.meanwhile)
            try:
                return super().forward(*inputs, **more)
            finally:
                hook.remove()

        def meanwhile(self, *_: Any) -> None:
            if not seen:
                seen.append(torch.Size())
                other = threading.Thread(target=lambda: seen.append(model(tokens).logits.shape))
                other.start()
                other.join()

    decode(Beside(model, MASK), tokens, "confidence")
    assert seen[1] == whole


def test_nested_evaluation_restores_the_modes_at_the_end() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    with evaluating(model):
        with evaluating(model):
            assert not any(part.training for part in model.modules())
        assert not model.training
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_ignores_the_mask_is_found_out_and_decoded_by_length(seed: int) -> None:
    prompts = [torch.randint(5, WORDS, (n,), generator=torch.Generator().manual_seed(seed + n)) for n in (4, 11, 4, 2)]
    model = Ignores(seed)
    with pytest.warns(UserWarning, match="Ignores ignores the attention mask"):
        together = generate(model, prompts, max_new_tokens=6, block_length=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once for a model
        again = generate(model, prompts, max_new_tokens=6, block_length=3)
    for prompt, row, repeated in zip(prompts, together, again, strict=True):
        assert torch.equal(row, generate(model, prompt, max_new_tokens=6, block_length=3))
        assert torch.equal(row, repeated)


def test_llada_with_a_model_that_ignores_the_mask_gives_each_row_what_it_gets_alone() -> None:
    model, row = Ignores(1), torch.tensor([9, 8, 7, 6])
    batch = torch.stack([torch.cat([torch.zeros(3, dtype=torch.int64), row]), torch.arange(10, 17)])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
    settings = {"steps": 4, "gen_length": 4, "block_length": 4, "mask_id": MASK}
    with pytest.warns(UserWarning, match="ignores the attention mask"):
        together = llada(model, batch, mask, **settings)
    assert torch.equal(together[0, -4:], llada(model, row[None], **settings)[0, -4:])


def test_every_position_and_chosen_ones_agree_for_a_model_that_ignores_the_mask() -> None:
    denoiser = HuggingFaceDenoiser(Ignores(0), MASK)
    tokens = torch.randint(5, WORDS, (3, 6), generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1] * 6], dtype=torch.bool)
    chosen = real & (torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.5)
    with pytest.warns(UserWarning, match="ignores the attention mask"):
        every = denoiser(tokens, real)
    some = denoiser(tokens, real, chosen)
    assert torch.allclose(some.logits, every.logits[chosen], atol=1e-6)
    assert torch.allclose(some.hidden[real], every.hidden[real], atol=1e-6)


@pytest.mark.parametrize("ignores", [True, False])
def test_the_probe_tells_models_apart(ignores: bool) -> None:
    model: Any = Ignores(2) if ignores else bert(2)

    def run(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return model(tokens, attention_mask=mask).logits, tokens

    with torch.no_grad():
        assert depends_on_padding(run, MASK, [7, 8], torch.device("cpu")) == ignores


def test_models_that_need_another_mask_are_refused_in_one_sentence() -> None:
    class Block(Ignores):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            raise ValueError("LLaDA2.0 only support block attention mask with shape: (1, 1, 4, 4)")

    with pytest.raises(BadInput, match="needs a block-causal attention mask: give block_length"):
        generate(Block(0), torch.tensor([[7, 8]]), max_new_tokens=2)
    with pytest.raises(BadInput, match=r"attention_mask has shape \(1, 1, 2, 2\); it must have that of the tokens, \(1, 2\)"):
        HuggingFaceDenoiser(bert(), MASK)(torch.tensor([[7, 8]]), torch.ones(1, 1, 2, 2))


def test_more_tokens_than_positions_are_one_error_before_the_forward_pass() -> None:
    model = bert(max_position_embeddings=8)
    with pytest.raises(BadInput, match="takes 8 tokens at most; it was given 9"):
        HuggingFaceDenoiser(model, MASK)(torch.full((1, 9), MASK))


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_decoding_under_any_gradient_mode_changes_nothing_that_it_is_given(context: Any) -> None:
    denoiser = HuggingFaceDenoiser(bert(), MASK)
    tokens = torch.tensor([[7, MASK, 8, MASK], [MASK, MASK, MASK, MASK]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    seeds, given = torch.tensor([3, 4]), tokens.clone()
    expected = decode(denoiser, tokens, "random", seeds=seeds, attention_mask=mask).tokens
    with context():
        assert torch.equal(decode(denoiser, tokens, "random", seeds=seeds, attention_mask=mask).tokens, expected)
    assert torch.equal(tokens, given) and seeds.tolist() == [3, 4]
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_a_compiled_model_gives_the_same_tokens() -> None:
    tokens = torch.tensor([[7, MASK, 8, MASK]])
    expected = decode(HuggingFaceDenoiser(bert(), MASK), tokens, "margin").tokens
    compiled = torch.compile(bert(), backend="eager")
    denoiser = HuggingFaceDenoiser(compiled, MASK)  # type: ignore[arg-type]
    assert torch.equal(decode(denoiser, tokens, "margin").tokens, expected)
    in_place = bert()
    in_place.compile(backend="eager")
    assert torch.equal(decode(HuggingFaceDenoiser(in_place, MASK), tokens, "margin").tokens, expected)


@needs_esmc
def test_a_protein_model_with_more_outputs_than_tokens_produces_amino_acids_only() -> None:
    tokenizer = transformers.EsmcTokenizer()
    alphabet = residues_of(tokenizer, 64)
    assert alphabet is not None and alphabet.vocab_size == 64
    assert (alphabet.mask_token_id, alphabet.pad_token_id) == (tokenizer.mask_token_id, tokenizer.pad_token_id)
    assert [*alphabet.start, *alphabet.encode("MKT_{2}X"), *alphabet.end] == tokenizer("MKT<mask><mask>X")["input_ids"]
    assert alphabet.decode(alphabet.encode("MKTX")) == "MKTX"
    assert {alphabet.token_text(token) for token in alphabet.symbols} == set("ACDEFGHIKLMNPQRSTVWY")
    assert residues_of(None, 64) is None
    assert residues_of(tokenizer, 20) is None, "a model with fewer outputs than tokens is another one"


@needs_esmc
def test_proteins_of_esmc_are_written_without_spaces_and_other_letters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.EsmcConfig(vocab_size=64, num_key_value_heads=2, **sizes)
    transformers.EsmcForMaskedLM(config).save_pretrained(tmp_path / "esmc")
    transformers.EsmcTokenizer().save_pretrained(tmp_path / "esmc")
    written = tmp_path / "designs.fasta"
    for problem in ("30", "MKT_{5}LLG"):
        command = ["sample", problem, "--task", "protein", "--model", str(tmp_path / "esmc"), "--steps", "5"]
        result = CliRunner().invoke(app, [*command, "--temperature", "1", "--fasta", str(written)])
        assert result.exit_code == 0, result.output
        designs = [line for line in written.read_text().splitlines() if not line.startswith(">")]
        assert set("".join(designs)) <= set("ACDEFGHIKLMNPQRSTVWY")
        assert all(len(design) == (30 if problem == "30" else 11) for design in designs)
    assert all(design.startswith("MKT") and design.endswith("LLG") for design in designs)
