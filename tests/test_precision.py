"""Ties, half precision, logits that are no numbers, and large vocabularies."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyorder.prediction
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.transformer import Transformer
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.dream import diffusion_generate
from anyorder.interfaces.generate import generate
from anyorder.interfaces.llada import generate as llada
from anyorder.prediction import Prediction, forbid, in_chunks
from anyorder.state import init

WORDS, MASK = 300, 299
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Tied(nn.Module):
    """A model whose logits are multiples of 1/2, so that the largest one of most positions is shared by several tokens."""

    def __init__(self, dtype: torch.dtype, model_type: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.config = SimpleNamespace(vocab_size=WORDS, hidden_size=8, model_type=model_type, mask_token_id=MASK)
        self.words, self.places, self.head = nn.Embedding(WORDS, 8), nn.Embedding(64, 8), nn.Linear(8, WORDS)
        self.to(dtype)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        x = x + 0.5 * x.float().mean(dim=1, keepdim=True).to(x.dtype)
        return SimpleNamespace(logits=(self.head(x) * 2).round() / 2)


def prediction_of(logits: Tensor) -> Prediction:
    return Prediction(logits, torch.zeros(1, len(logits), 1), torch.ones(1, len(logits), dtype=torch.bool))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_likeliest_token_is_the_first_of_the_largest_logits(dtype: torch.dtype) -> None:
    logits = torch.randint(-4, 5, (200, 50), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[3, :] = 1
    prediction = prediction_of(logits)
    first = (logits == logits.max(dim=-1, keepdim=True).values).int().argmax(dim=-1)
    assert torch.equal(prediction.best_tokens, first)
    assert torch.equal(prediction.top_tokens[:, 0], first)
    second = logits.scatter(1, first[:, None], -torch.inf).max(dim=-1).values
    assert torch.equal(logits.gather(1, prediction.top_tokens[:, 1:])[:, 0], second)
    exact = torch.log_softmax(logits.double(), dim=-1)
    assert torch.allclose(prediction.best_log_probs.double(), exact.max(dim=-1).values, atol=1e-5)
    assert prediction.best_log_probs.dtype == prediction.entropy.dtype == torch.float32


def llada_published(model: nn.Module, prompt: Tensor, steps: int, new: int, block: int) -> Tensor:
    """LLaDA's generation of one prompt (1, P): argmax of the logits as they are, float64 softmax, top-k in the block."""
    x = torch.cat([prompt, torch.full((1, new), MASK)], dim=1)
    for end in range(prompt.shape[1] + block, x.shape[1] + 1, block):
        per_block = steps * block // new
        counts = [block // per_block + (i < block % per_block) for i in range(per_block)]
        for count in counts:
            logits = model(x).logits
            logits[..., MASK] = -torch.inf
            proposal = logits.argmax(dim=-1)
            probability = torch.softmax(logits.double(), dim=-1).gather(-1, proposal[..., None])[..., 0]
            sure = torch.where(x == MASK, probability, -torch.inf)
            sure[:, end:] = -torch.inf
            chosen = sure[0].topk(count).indices
            x[0, chosen] = proposal[0, chosen]
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("steps", "new", "block"), [(1, 16, 16), (8, 16, 16), (6, 12, 4)])
@torch.no_grad()
def test_llada_gives_the_published_tokens_where_logits_tie(dtype: torch.dtype, steps: int, new: int, block: int) -> None:
    model = Tied(dtype).eval()
    prompts = torch.randint(0, MASK, (4, 5), generator=torch.Generator().manual_seed(2))
    expected = torch.cat([llada_published(model, prompt[None], steps, new, block) for prompt in prompts])
    assert torch.equal(llada(model, prompts, None, steps, new, block, mask_id=MASK), expected)
    top = model(expected).logits
    assert ((top == top.max(dim=-1, keepdim=True).values).sum(dim=-1) > 1).any(), "no tie: the test shows nothing"


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_dream_gives_the_published_tokens_where_logits_tie(dtype: torch.dtype) -> None:
    model = Tied(dtype, "Dream").eval()
    prompts = torch.randint(0, MASK, (3, 5), generator=torch.Generator().manual_seed(2))
    x, times = nn.functional.pad(prompts, (0, 8), value=MASK), torch.linspace(1, 1e-3, 6)
    for i in range(5):
        masked = x == MASK
        logits = model(x).logits
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        logits[..., MASK] = -torch.inf
        confidence, proposal = torch.softmax(logits.float(), dim=-1).max(dim=-1)
        left = masked.sum() / len(x)
        count = int(left * (1 - times[i + 1] / times[i])) if i < 4 else int(left)
        places = confidence.masked_fill(~masked, -torch.inf).topk(count, dim=1).indices
        x = x.scatter(1, places, proposal.gather(1, places))
    assert torch.equal(diffusion_generate(model, prompts, max_new_tokens=8, steps=5, alg="maskgit_plus"), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_diffusers_scheduler_gives_the_originals_steps_where_logits_tie(dtype: torch.dtype) -> None:
    diffusers = pytest.importorskip("diffusers")
    from anyorder.interfaces.diffusers import OrderScheduler

    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-4, 5, (3, 8, WORDS), generator=generator).to(dtype)
    logits += torch.randint(0, 9, (3, 8, 1), generator=generator) * (torch.arange(WORDS) < 4)  # positions differ
    sample = torch.full((3, 8), MASK)
    outputs = []
    for scheduler in (OrderScheduler(order="confidence"), diffusers.BlockRefinementScheduler()):
        scheduler.set_timesteps(3, block_length=8)
        outputs.append(scheduler.step(logits, 0, sample, mask_token_id=MASK, threshold=0.9))
    assert torch.equal(outputs[0].sampled_tokens, outputs[1].sampled_tokens)
    assert torch.equal(outputs[0].transfer_index.sum(dim=1), outputs[1].transfer_index.sum(dim=1))


@pytest.mark.parametrize("token", ["argmax", "sample"])
@pytest.mark.parametrize("order", ["confidence", "random", "entropy@threshold:0.9", "margin+repredict"])
def test_logits_that_are_no_numbers_are_one_error(order: str, token: str) -> None:
    class Broken(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            logits = torch.zeros(*tokens.shape, 6)
            logits[:, 3, 1] = value
            return logits

    tokens = torch.tensor([[5, 1, 5, 5, 5]])
    denoiser, sampler = WrappedDenoiser(Broken(), 5, 6), Sampler.parse(order, token=token, steps=4)
    for value, name in ((torch.nan, "NaN"), (torch.inf, r"\+inf")):  # noqa: B007  # `Broken` reads it
        with pytest.raises(BadInput, match=rf"logits hold {name} in step \d, row 0, position 3, dtype float32"):
            decode(denoiser, tokens, sampler)
    value = -torch.inf  # forbids a token
    assert not (decode(denoiser, tokens, sampler).tokens[:, 3] == 1).any()


def test_an_error_about_half_precision_says_what_helps() -> None:
    class Overflows(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.full((*tokens.shape, 6), 300.0, dtype=torch.float16) ** 2 * (torch.arange(6) == 2)

    with pytest.raises(BadInput, match="dtype float16: float16 overflows above 65504, so load the model in bfloat16"):
        decode(WrappedDenoiser(Overflows(), 5, 6), torch.tensor([[5, 5]]), "confidence")


def test_a_position_without_any_allowed_token_is_an_error() -> None:
    class Nothing(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.full((*tokens.shape, 6), -torch.inf)

    with pytest.raises(BadInput, match="forbids every token in step 0, row 0, position 1"):
        decode(WrappedDenoiser(Nothing(), 5, 6), torch.tensor([[3, 5]]), "confidence")


def test_a_token_rule_that_returns_something_else_is_an_error() -> None:
    sampler = Sampler("confidence", token=lambda state, prediction: (prediction.best_tokens[:1], prediction.log_odds))
    with pytest.raises(BadInput, match=r"the token rule .* returned torch.int64 \(1,\)"):
        decode(WrappedDenoiser(nn.Embedding(6, 6), 5, 6), torch.tensor([[5, 5]]), sampler)


def test_one_allowed_token_is_certain() -> None:
    logits = torch.full((1, 4), -torch.inf)
    logits[0, 0] = 2.0
    prediction = prediction_of(logits)
    assert prediction.log_odds.item() == torch.inf
    assert prediction.best_log_probs.item() == 0
    assert prediction.top_log_probs.tolist() == [[0.0, -torch.inf]]
    assert prediction.entropy.item() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_in_chunks_is_what_is_read_at_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = (3 * torch.randn(7, 33, generator=torch.Generator().manual_seed(0))).to(dtype)
    logits[2, 5:] = -torch.inf
    given = logits.clone()
    state = init(torch.zeros(1, 7, dtype=torch.int64), 0)

    def read() -> list[Tensor]:
        prediction = prediction_of(logits)
        drawn = [part for rule in (Sample(0.8), Sample(0.8, top_p=0.7), Sample(top_k=2)) for part in rule(state, prediction)]
        return [
            prediction.top_tokens, prediction.top_log_probs, prediction.log_odds, prediction.entropy,
            prediction.log_probs_of(torch.arange(7)), prediction.top_probabilities(3), prediction.soft_confidence(0.5), *drawn,
        ]  # fmt: skip

    whole = read()
    for rows in (1, 2, 6):
        monkeypatch.setattr(anyorder.prediction, "_CHUNK_CPU", 33 * rows)
        assert all(torch.equal(a, b) for a, b in zip(whole, read(), strict=True))
    assert torch.equal(logits, given), "the logits were changed"


def test_chunks_are_as_small_as_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyorder.prediction, "_CHUNK_CPU", 40)
    seen: list[int] = []

    def compute(logits: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        seen.append(len(logits))
        return logits.sum(dim=1), index

    total, index = in_chunks(compute, torch.ones(11, 10, dtype=torch.bfloat16), torch.arange(11))
    assert seen == [4, 4, 3]
    assert total.tolist() == [10.0] * 11 and index.tolist() == list(range(11))


def test_a_ruled_out_token_leaves_all_others() -> None:
    logits = torch.arange(12.0).view(3, 4)
    assert torch.equal(forbid(logits, torch.tensor([-1, 0, 3])), logits.masked_fill(
        torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool), -torch.inf
    ))  # fmt: skip
    assert forbid(logits, torch.full((3,), -1)) is logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_decodes_with_every_part(dtype: torch.dtype, tiny_transformer: Transformer) -> None:
    model = tiny_transformer.to(dtype)
    tokens = torch.tensor([[0, 2, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
    for text in ("confidence", "margin@threshold:0.5", "entropy@entropy_bound:0.1", "random+repredict", "log_margin@blocks:2"):
        result = decode(model, tokens, Sampler.parse(text, steps=4, noise=0.1))
        assert (result.tokens != 0).all() and result.token_log_probs.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert (decode(model.float(), tokens, "confidence").tokens != 0).all()
    assert (generate(model, torch.tensor([[1, 2]]), max_new_tokens=3) != 0).all()


def test_a_fingerprint_does_not_depend_on_float32_or_bfloat16(tiny_transformer: Transformer) -> None:
    found = fingerprint(tiny_transformer)
    assert fingerprint(tiny_transformer.bfloat16()) == found
    assert fingerprint(tiny_transformer.float()) == found, "the same weights, rounded"
    with torch.no_grad():
        next(iter(tiny_transformer.parameters())).mul_(1.1)
    assert fingerprint(tiny_transformer) != found


def test_a_fingerprint_reads_the_weights_once(tiny_transformer: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fingerprint(tiny_transformer)
    monkeypatch.setattr("anyorder.denoisers.base._hash_of", lambda *_: "read again")
    assert fingerprint(tiny_transformer) == found
    tiny_transformer.load_state_dict({k: v + 1 for k, v in tiny_transformer.state_dict().items()})
    assert fingerprint(tiny_transformer) == "read again"


def test_a_model_that_each_call_wraps_anew_is_read_once(tiny_transformer: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped() -> WrappedDenoiser:
        return WrappedDenoiser(tiny_transformer, tiny_transformer.mask_token_id, tiny_transformer.vocab_size)

    found = fingerprint(wrapped())
    monkeypatch.setattr("anyorder.denoisers.base._hash_of", lambda *_: "read again")
    assert fingerprint(wrapped()) == found
    with torch.no_grad():
        list(tiny_transformer.parameters())[-1].add_(1)
    assert fingerprint(wrapped()) == "read again"
