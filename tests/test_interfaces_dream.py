"""Dream's diffusion_generate, against a plain transcription of the published algorithm on the same tiny weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.dream import DreamOutput, diffusion_generate
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.policies import MLPPolicy
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState

WORDS, MASK = 40, 39


class TinyDream(nn.Module):
    """Dream's interface: no mask, or one that attention takes as it is; logits of the next position."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.config = SimpleNamespace(vocab_size=WORDS, hidden_size=16, model_type="Dream", mask_token_id=MASK)
        self.embed_tokens = nn.Embedding(WORDS, 16)
        self.places = nn.Embedding(64, 16)
        self.lm_head = nn.Linear(16, WORDS, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> Any:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        x = self.embed_tokens(input_ids) + self.places(position_ids)
        heads = x.unflatten(2, (2, 8)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=attention_mask)
        return SimpleNamespace(logits=self.lm_head(3 * mixed.transpose(1, 2).flatten(2) + x) / 2)


MODEL = TinyDream().eval()


def words(rows: int, length: int, seed: int = 2) -> Tensor:
    return torch.randint(0, MASK, (rows, length), generator=torch.Generator().manual_seed(seed))


def next_logits(x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Logits (B, L, V) moved by one, without the mask token."""
    seen, places = None, None
    if attention_mask is not None:
        seen = attention_mask[:, None, None, :] & attention_mask[:, None, :, None]
        places = (attention_mask.long().cumsum(dim=1) - 1).masked_fill(~attention_mask, 1)
    logits = MODEL(x, seen, places).logits
    logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    logits[..., MASK] = -torch.inf
    return logits


@torch.no_grad()
def published(
    prompt: Tensor, new: int, steps: int, alg: str, *, attention_mask: Tensor | None = None, eps: float = 1e-3,
    top_p: float | None = None, top_k: int | None = None,
) -> list[Tensor]:  # fmt: skip
    """Dream's greedy decoding of a batch: the tokens after every step."""
    x = nn.functional.pad(prompt, (0, new), value=MASK)
    if attention_mask is not None:
        attention_mask = nn.functional.pad(attention_mask, (0, new), value=True)
    times = torch.linspace(1, eps, steps + 1)
    history = []
    for i in range(steps):
        masked = x == MASK
        p = torch.softmax(next_logits(x, attention_mask)[masked], dim=-1)
        ranked, ranking = p.sort(dim=-1, descending=True)
        if top_p is not None:
            ranked = ranked.masked_fill(ranked.cumsum(dim=-1) - ranked > top_p, 0.0)
        if top_k is not None:
            ranked[:, top_k:] = 0.0
        ranked = ranked / ranked.sum(dim=-1, keepdim=True)
        score = {
            "maskgit_plus": ranked[:, 0],
            "topk_margin": ranked[:, 0] - ranked[:, 1],
            "entropy": (ranked * (ranked + 1e-10).log()).sum(dim=-1),
        }[alg]
        left = masked.sum() / len(x)
        count = int(left * (1 - times[i + 1] / times[i])) if i < steps - 1 else int(left)
        scores = torch.full(x.shape, -torch.inf).masked_scatter(masked, score)
        proposal = x.masked_scatter(masked, ranking[:, 0])
        chosen = torch.zeros_like(masked).scatter(1, scores.topk(count, dim=1).indices, True)
        x = torch.where(chosen, proposal, x)
        history.append(x)
    return history


@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin", "entropy"])
@pytest.mark.parametrize(
    ("new", "steps", "eps", "top_p", "top_k"),
    [(8, 8, 1e-3, None, None), (12, 5, 1e-3, None, None), (6, 20, 1e-3, None, None), (10, 4, 0.2, None, None),
     (9, 9, 1e-3, 0.9, None), (9, 9, 1e-3, None, 2), (9, 6, 1e-2, 0.95, 5)],
)  # fmt: skip
def test_greedy_dream_gives_the_published_tokens_after_every_step(
    alg: str, new: int, steps: int, eps: float, top_p: float | None, top_k: int | None
) -> None:
    prompts = words(5, 6)
    expected = published(prompts, new, steps, alg, eps=eps, top_p=top_p, top_k=top_k)
    ours = diffusion_generate(
        MODEL, prompts, max_new_tokens=new, steps=steps, eps=eps, alg=alg, top_p=top_p, top_k=top_k, temperature=0.0,
        alg_temp=0.0, return_dict_in_generate=True, output_history=True,
    )  # fmt: skip
    assert isinstance(ours, DreamOutput) and ours.history is not None
    assert torch.equal(torch.stack(ours.history), torch.stack(expected))
    assert torch.equal(ours.sequences, expected[-1])


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.sampled_from(["left", "right"]),
    st.sampled_from(["maskgit_plus", "topk_margin", "entropy"]),
    st.integers(0, 100),
)
@settings(max_examples=20, deadline=None)
def test_at_any_batch_size_and_padding_side(lengths: list[int], side: str, alg: str, seed: int) -> None:
    places = torch.arange(max(lengths))
    real = torch.stack([places >= max(lengths) - n if side == "left" else places < n for n in lengths])
    batch = words(len(lengths), max(lengths), seed).masked_fill(~real, 0)
    together = diffusion_generate(MODEL, batch, attention_mask=real, max_new_tokens=9, steps=6, alg=alg)
    assert isinstance(together, Tensor)
    for row, length in enumerate(lengths):
        alone = published(batch[row][real[row]][None], 9, 6, alg)[-1]
        assert torch.equal(together[row, max(lengths) :], alone[0, length:])
    if side == "left":  # the original can do this too
        assert torch.equal(together, published(batch, 9, 6, alg, attention_mask=real)[-1])


def test_masks_in_the_inputs_are_filled_whatever_the_other_rows_hold() -> None:
    inputs = words(3, 8)
    inputs[0, [0, 3, 4]] = MASK
    inputs[1, [2, 6]] = MASK
    together = diffusion_generate(MODEL, inputs, max_length=11, steps=4, alg="maskgit_plus")
    alone = torch.cat([published(inputs[i : i + 1], 3, 4, "maskgit_plus")[-1] for i in range(3)])
    assert isinstance(together, Tensor)
    assert torch.equal(together, alone)


def test_origin_transfers_each_token_with_probability_one_minus_s_over_t() -> None:
    steps, new, rows = 4, 30, 60
    out = diffusion_generate(
        MODEL, words(rows, 4), max_new_tokens=new, steps=steps, return_dict_in_generate=True, output_history=True
    )
    assert isinstance(out, DreamOutput) and out.history is not None
    before = nn.functional.pad(words(rows, 4), (0, new), value=MASK)
    times = torch.linspace(1, 1e-3, steps + 1)
    shares = [1 - times[i + 1] / times[i] for i in range(steps - 1)] + [torch.tensor(1.0)]
    for after, share in zip(out.history, shares, strict=True):
        masked, new_tokens = before == MASK, before != after
        n = int(masked.sum())
        assert abs(float(new_tokens.sum()) / n - share) < 4 * float((share * (1 - share) / n).sqrt()) + 1e-9
        with torch.no_grad():
            likeliest = next_logits(before).argmax(dim=-1)
        assert torch.equal(after[new_tokens], likeliest[new_tokens])
        assert not (new_tokens & ~masked).any()
        before = after


@pytest.mark.parametrize(("name", "alg"), [("confidence", "maskgit_plus"), ("margin", "topk_margin"), ("entropy", "entropy")])
def test_a_heuristic_by_name_ranks_by_the_shaped_probabilities_as_the_algorithm_does(name: str, alg: str) -> None:
    prompts = words(4, 6)
    for how in ({"temperature": 0.1, "top_p": 0.9}, {"temperature": 0.7, "top_k": 5, "alg_temp": 0.2}, {"top_p": 0.6}, {}):
        common: dict[str, Any] = {"max_new_tokens": 16, "steps": 16, "seed": 3, **how}
        ours = diffusion_generate(MODEL, prompts, order=name, **common)
        assert torch.equal(ours, diffusion_generate(MODEL, prompts, alg=alg, **common))
    sharp: dict[str, Any] = {"max_new_tokens": 16, "steps": 16, "temperature": 0.3, "top_p": 0.9}
    raw = diffusion_generate(MODEL, prompts, order=ORDERS[name], **sharp)
    assert not torch.equal(raw, diffusion_generate(MODEL, prompts, order=name, **sharp)), "a function reads the model's own"


READ: list[Tensor] = []


def reads(state: DecodeState, prediction: Prediction) -> Tensor:
    READ.append(prediction.entropy)
    return prediction.scatter(-prediction.entropy)


def test_other_heuristics_by_name_read_the_shaped_probabilities_too() -> None:
    how: dict[str, Any] = {"max_new_tokens": 4, "steps": 1, "temperature": 0.2, "top_k": 3}
    READ.clear()
    for order in (f"{__name__}:reads", reads):
        diffusion_generate(MODEL, words(1, 4), order=order, **how)
    with torch.no_grad():
        logits = next_logits(nn.functional.pad(words(1, 4), (0, 4), value=MASK))[0, 4:]
    kept = (logits / 0.2).topk(3, dim=-1).values
    for found, expected in zip(READ, (kept, logits), strict=True):
        torch.testing.assert_close(found, torch.distributions.Categorical(logits=expected.clamp(min=-1e4)).entropy())


def test_a_learned_order_reads_the_model_s_own_probabilities() -> None:
    policy = MLPPolicy(hidden_size=16, vocab_size=WORDS, width=8).eval()
    nn.init.normal_(policy.out.weight, std=3.0)
    learned = LearnedOrder(policy)
    read: list[Tensor] = []

    def watched(state: DecodeState, prediction: Prediction) -> Tensor:
        read.append(prediction.log_odds)
        return learned(state, prediction)

    denoiser = HuggingFaceDenoiser(MODEL, MASK, shift=True)
    how: dict[str, Any] = {"max_new_tokens": 8, "steps": 8, "temperature": 0.2, "top_p": 0.8, "seed": 1}
    ours = diffusion_generate(denoiser, words(2, 5), order=learned, **how)
    assert torch.equal(ours, diffusion_generate(denoiser, words(2, 5), order=watched, **how))
    cold = read[0].clone()
    read.clear()
    diffusion_generate(denoiser, words(2, 5), order=watched, **how | {"temperature": 0.0, "top_p": None})
    torch.testing.assert_close(read[0], cold)


def test_an_order_takes_the_place_of_the_algorithm_and_not_of_the_timesteps() -> None:
    prompts = words(3, 5)

    def doubtful(state: DecodeState, prediction: Prediction) -> Tensor:
        return prediction.scatter(-prediction.top_log_probs[:, 0])

    def history(**how: Any) -> list[Tensor]:
        out = diffusion_generate(
            MODEL, prompts, max_new_tokens=10, steps=5, return_dict_in_generate=True, output_history=True, **how
        )
        assert isinstance(out, DreamOutput) and out.history is not None
        return list(out.history)

    greedy, named, ours = history(alg="topk_margin"), history(order="margin"), history(order=doubtful)
    assert torch.equal(torch.stack(named), torch.stack(greedy))
    assert not torch.equal(ours[0], greedy[0])
    assert [(x == MASK).sum().item() for x in ours] == [(x == MASK).sum().item() for x in greedy]


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus", "topk_margin", "entropy"])
def test_sampling_follows_the_seed_and_not_the_batch(alg: str) -> None:
    prompts = words(4, 5)
    how: dict[str, Any] = {
        "max_new_tokens": 8, "steps": 6, "alg": alg, "alg_temp": 0.2, "temperature": 1.0, "top_p": 0.9, "top_k": 20
    }  # fmt: skip
    together = diffusion_generate(MODEL, prompts, seed=7, **how)
    alone = torch.cat([diffusion_generate(MODEL, prompts[i : i + 1], seed=7 + i, **how) for i in range(4)])  # type: ignore[misc]
    other = diffusion_generate(MODEL, prompts, seed=11, **how)
    assert isinstance(together, Tensor) and isinstance(other, Tensor)
    assert torch.equal(together, alone)
    assert not torch.equal(together, other)
    assert (together != MASK).all()


def test_alg_temp_draws_the_first_position_from_the_softmax_of_the_probabilities() -> None:
    prompt, rows, alg_temp = words(1, 4), 3000, 0.05
    with torch.no_grad():
        x = nn.functional.pad(prompt, (0, 4), value=MASK)
        confidence = torch.softmax(next_logits(x)[0, 4:], dim=-1).amax(dim=-1)
    expected = torch.softmax(confidence / alg_temp, dim=0)
    times = torch.linspace(1, 1e-3, 5)
    assert int(4 * (1 - times[1] / times[0])) == 0 and int(4 * (1 - times[2] / times[1])) == 1
    out = diffusion_generate(
        MODEL, prompt.expand(rows, -1), max_new_tokens=4, steps=4, alg="maskgit_plus", alg_temp=alg_temp,
        return_dict_in_generate=True, output_history=True,
    )  # fmt: skip
    assert isinstance(out, DreamOutput) and out.history is not None
    share = (out.history[1][:, 4:] != MASK).float().mean(dim=0)
    assert expected.max() - expected.min() > 0.1, "the positions differ enough for this to say something"
    torch.testing.assert_close(share, expected, atol=0.04, rtol=0)


def test_a_denoiser_of_dream_gives_the_same() -> None:
    prompts = words(2, 5)
    denoiser = HuggingFaceDenoiser(MODEL, MASK, shift=True)
    plain = diffusion_generate(MODEL, prompts, max_new_tokens=6, steps=3, alg="entropy")
    assert torch.equal(diffusion_generate(denoiser, prompts, max_new_tokens=6, steps=3, alg="entropy"), plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"alg": "best"}, "origin, maskgit_plus, topk_margin, entropy"),
        ({"steps": 0}, "steps is 0; it must be a whole number, 1 or more"),
        ({"eps": 1.0}, "the last timestep lies in \\(0, 1\\)"),
        ({"alg_temp": -1.0}, "alg_temp is -1.0"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": 1.0, "top_p": 0.0}, "above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; it must be a whole number, 0 or more"),
        ({"max_new_tokens": None}, "give max_new_tokens or max_length"),
        ({"max_new_tokens": None, "max_length": 3}, "are 5 long already"),
        ({"max_new_tokens": 0}, "nothing to generate"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1; it must be a whole number, 0 or more"),
        ({"order": "best"}, "random, left_to_right, right_to_left, confidence"),
        ({"attention_mask": torch.ones(2, 4)}, "must have that of the tokens, \\(2, 5\\)"),
    ],
)
def test_bad_arguments_are_refused_with_what_would_be_right(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        diffusion_generate(MODEL, words(2, 5), **{"max_new_tokens": 4, **how})


def test_a_model_without_a_mask_and_things_that_are_no_model_are_refused() -> None:
    model = TinyDream().eval()
    model.config.mask_token_id = None
    with pytest.raises(BadInput, match="names no mask token: give mask_token_id"):
        diffusion_generate(model, words(1, 3), max_new_tokens=2)
    assert diffusion_generate(model, words(1, 3), max_new_tokens=2, steps=2, mask_token_id=MASK).shape == (1, 5)  # type: ignore[union-attr]
    with pytest.raises(BadInput, match="wrap it with WrappedDenoiser"):
        diffusion_generate(nn.Linear(2, 2), words(1, 3), max_new_tokens=2)
    with pytest.raises(BadInput, match="int64 \\(batch, length\\)"):
        diffusion_generate(MODEL, words(1, 3)[None], max_new_tokens=2)
    with pytest.raises(BadInput, match="mask is 39: leave it out"):
        diffusion_generate(HuggingFaceDenoiser(MODEL, MASK, shift=True), words(1, 3), max_new_tokens=2, mask_token_id=3)
