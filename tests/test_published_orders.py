"""Published orders and count rules against hand-worked scores, exact distributions and counted forward passes."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anyorder.decoding.dependence import DependenceAware, independent_set
from anyorder.decoding.loop import decode
from anyorder.decoding.paces import Ascending, Saber
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.timesteps import FirstHitting
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.attention import with_attention
from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.orders import EarlyEndRejection, InfoGain, log_margin
from anyorder.orders.heuristics import confidence
from anyorder.prediction import Prediction
from anyorder.state import DecodeState
from conftest import HashDenoiser

Seen = tuple[DecodeState, Prediction]
MakeState = Callable[..., Seen]

NONE = torch.zeros(1, dtype=torch.int64)


def binary(make_state: MakeState, confidences: list[float], **changes: object) -> Seen:
    """Positions with two possible tokens, the first with the given probability."""
    return make_state([[c, 1 - c] for c in confidences], **changes)


def likely(expected: Tensor, found: Tensor, rows: int) -> bool:
    """Whether frequencies are within 4.5 standard deviations of probabilities."""
    return bool(((found - expected).abs() <= 4.5 * (expected * (1 - expected) / rows).sqrt() + 1e-12).all())


# ---- first hitting ----------------------------------------------------------------------------------------------------------

ROWS = 6000


def three_masks(**how: object) -> Decoded:
    """Many sequences of three masks, decoded at the times of events."""
    return decode(HashDenoiser(), torch.zeros(ROWS, 3, dtype=torch.int64), Sampler("confidence", token=Sample(), **how))  # type: ignore[arg-type]


def test_first_hitting_takes_a_pass_for_each_token_in_a_uniformly_random_order() -> None:
    result = three_masks(count="first_hitting")
    assert (result.nfe == 3).all()
    orders = result.commit_step.argsort(dim=1)
    found = torch.tensor([(orders == torch.tensor(one)).all(dim=1).float().mean() for one in itertools.permutations(range(3))])
    assert likely(torch.full((6,), 1 / 6), found, ROWS)


def test_first_hitting_samples_the_reverse_process_exactly() -> None:
    """Against the sum over all orders of the product of the denoiser's conditionals."""
    denoiser, exact = HashDenoiser(), torch.zeros(64, dtype=torch.float64)
    for number, words in enumerate(itertools.product(range(1, 5), repeat=3)):
        for order in itertools.permutations(range(3)):
            tokens, chance = torch.zeros(1, 3, dtype=torch.int64), 1 / 6
            for position in order:
                chance *= torch.softmax(denoiser(tokens).logits[0, position], dim=-1)[words[position]].item()
                tokens[0, position] = words[position]
            exact[number] += chance
    assert exact.sum().item() == pytest.approx(1.0)
    tokens = three_masks(count="first_hitting").tokens
    number = ((tokens - 1) * torch.tensor([16, 4, 1])).sum(dim=1)
    assert likely(exact, torch.bincount(number, minlength=64) / ROWS, ROWS)


def test_the_times_of_events_have_the_law_of_the_sampler(make_state: MakeState) -> None:
    """The next event of n masked positions is at t u^(1/n): P(first of four <= x) = x^4, and t_2 / t_1 <= x with x^3."""
    seeds = torch.arange(ROWS)
    state = binary(make_state, [0.9] * 4)[0].replace(tokens=torch.zeros(ROWS, 4, dtype=torch.int64), seeds=seeds)
    times = FirstHitting().times(state).sort(dim=1, descending=True).values
    at = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    first = (times[:, :1] <= at).double().mean(dim=0)
    second = (times[:, 1:2] / times[:, :1] <= at).double().mean(dim=0)
    assert likely(at**4, first, ROWS) and likely(at**3, second, ROWS)


def test_events_in_one_interval_share_a_pass() -> None:
    """Two intervals and three positions: the first pass unmasks each set of one or two of them with probability 1/8, and all
    three with 1/8 + 1/8. So a decode takes two passes with probability 3/4: 2 (1 - 1/8) = 1.75 on average."""
    result = three_masks(count="first_hitting:2")
    first = result.commit_step == 0
    number = (first * torch.tensor([4, 2, 1])).sum(dim=1)
    assert likely(torch.tensor([0, 1, 1, 1, 1, 1, 1, 2]) / 8, torch.bincount(number, minlength=8) / ROWS, ROWS)
    assert set(result.nfe.tolist()) == {1, 2} and result.nfe.double().mean().item() == pytest.approx(1.75, abs=0.03)


def test_first_hitting_stays_in_the_open_block_and_does_not_depend_on_the_batch() -> None:
    masks = torch.zeros(3, 6, dtype=torch.int64)
    sampler = Sampler("confidence", count="first_hitting", block_length=2, token=Sample())
    together = decode(HashDenoiser(), masks, sampler, seeds=torch.tensor([5, 6, 7]))
    assert [sorted(row[i : i + 2]) for row in together.commit_step.tolist() for i in (0, 2, 4)] == [[0, 1], [2, 3], [4, 5]] * 3
    alone = decode(HashDenoiser(), masks[:1], sampler, seeds=torch.tensor([6]))
    assert torch.equal(alone.tokens[0], together.tokens[1]) and torch.equal(alone.commit_step[0], together.commit_step[1])


# ---- paces ------------------------------------------------------------------------------------------------------------------


def select(rule: Callable[..., Tensor], seen: Seen) -> list[int]:
    return rule(confidence(*seen), *seen, NONE)[0].nonzero()[:, 0].tolist()  # type: ignore[no-any-return]


def test_saber_takes_what_is_surer_than_what_was_committed(make_state: MakeState) -> None:
    """Two tokens were committed with .6 and .8, so the level is .7."""
    masked = torch.tensor([[False, False, True, True, True, True]])
    logits = torch.tensor([[c, 1 - c] for c in (0.69, 0.9, 0.71, 0.95)]).log()
    later = {
        "masked": masked,
        "predicted": masked,
        "logits": logits,
        "commit_step": torch.tensor([[0, 1, -1, -1, -1, -1]]),
        "token_log_probs": torch.tensor([[0.6, 0.8, 1, 1, 1, 1]]).log(),
    }
    seen = binary(make_state, [0.5] * 6, **later)
    assert select(Saber(), seen) == [3, 4, 5]
    assert select(Saber(least=4), seen) == [2, 3, 4, 5]
    higher = binary(make_state, [0.5] * 6, **{**later, "token_log_probs": torch.tensor([[0.94, 0.94, 1, 1, 1, 1]]).log()})
    assert select(Saber(), higher) == [3, 5], "only one is above .94: the two best-scored"
    assert select(Saber(least=1), higher) == [5]
    assert select(Saber(), binary(make_state, [0.6, 0.99, 0.98, 0.7])) == [1, 2], "at first the level is 1"


def test_ascending_doubles_from_step_to_step() -> None:
    result = decode(HashDenoiser(), torch.zeros(1, 15, dtype=torch.int64), Sampler("confidence", count="ascending"))
    assert torch.bincount(result.commit_step[0]).tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize(("growth", "counts"), [(1.0, [1, 1, 1]), (1.5, [1, 1, 2]), (3.0, [1, 3, 9])])
def test_ascending_rounds_down(make_state: MakeState, growth: float, counts: list[int]) -> None:
    seen = [binary(make_state, [0.9] * 9, step=step) for step in range(3)]
    assert [len(select(Ascending(growth), one)) for one in seen] == counts


def test_ascending_is_refused_in_blocks() -> None:
    with pytest.raises(BadInput, match="ascending counts over the whole sequence"):
        Sampler("confidence", count="ascending", block_length=4)


# ---- early rejection of ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "factor"), [(0, 0.4), (1, 0.6), (2, 0.8), (3, 1.0)])
def test_eoser_lowers_the_probability_of_an_end_less_and_less(make_state: MakeState, step: int, factor: float) -> None:
    """Position 0 proposes token 0, position 1 token 1, which ends the text."""
    seen = make_state([[0.7, 0.3], [0.1, 0.9]], step=step, steps=4)
    assert EarlyEndRejection(1)(*seen)[0].exp().tolist() == pytest.approx([0.7, 0.9 * factor])
    assert EarlyEndRejection(0, 0.5, 0.5)(*seen)[0].exp().tolist() == pytest.approx([0.35, 0.9])


def test_eoser_of_a_single_step_and_of_another_order(make_state: MakeState) -> None:
    seen = make_state([[0.7, 0.3], [0.1, 0.9]], step=0, steps=1)
    assert EarlyEndRejection(1, 0.2, 0.9)(*seen)[0].exp().tolist() == pytest.approx([0.7, 0.81])
    assert EarlyEndRejection(1, 0.2, 0.9, log_margin)(*seen)[0].exp().tolist() == pytest.approx([7 / 3, 8.1])


@pytest.mark.parametrize("text", ["eoser", "eoser:-1", "eoser:1:0", "eoser:1:0.4:2"])
def test_eoser_needs_a_token_and_factors_of_probabilities(text: str) -> None:
    with pytest.raises(BadInput, match=r"token|least|most"):
        Sampler.parse(text)


# ---- info gain --------------------------------------------------------------------------------------------------------------


class Copies(nn.Module):
    """Four positions, tokens 1 and 2. The first two are equal and the second of them is sure of nothing before it is known; the
    others are independent, with probabilities .9 and .8 of token 1."""

    mask_token_id, vocab_size, hidden_size = 0, 3, 1

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        self.calls += len(tokens)
        first = torch.tensor([0.6, 0.6, 0.9, 0.8]).expand_as(tokens).clone()
        for here, there in ((0, 1), (1, 0)):
            known = tokens[:, there] != 0
            first[known, here] = torch.where(tokens[known, there] == 1, 1.0, 0.0)
        logits = torch.stack([torch.zeros_like(first), first, 1 - first], dim=-1).log()
        chosen = logits if positions is None else logits[positions]
        return DenoiserOutput(chosen, torch.zeros(*tokens.shape, 1))


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_info_gain_is_the_fall_of_the_mean_entropy_less_the_entropy_of_the_position(make_state: MakeState) -> None:
    denoiser = Copies()
    bound = Sampler(InfoGain(candidates=4)).bind(denoiser).order
    seen = make_state([[0, p, 1 - p] for p in (0.6, 0.6, 0.9, 0.8)])
    twin, sure, third = entropy(0.6), entropy(0.9), entropy(0.8)
    now = (2 * twin + sure + third) / 4
    after = [(sure + third) / 3, (sure + third) / 3, (2 * twin + third) / 3, (2 * twin + sure) / 3]
    own = [twin, twin, sure, third]
    expected = [now - rest - cost for rest, cost in zip(after, own, strict=True)]
    assert bound(*seen)[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert denoiser.calls == 4


def test_info_gain_tries_the_most_confident_and_puts_the_others_behind(make_state: MakeState) -> None:
    denoiser = Copies()
    bound = Sampler(InfoGain(candidates=2, temperature=0.0)).bind(denoiser).order
    scores = bound(*make_state([[0, p, 1 - p] for p in (0.6, 0.6, 0.9, 0.8)]))[0]
    assert denoiser.calls == 2
    assert scores.argsort(descending=True, stable=True)[2:].tolist() == [0, 1]
    drawn = Sampler(InfoGain(candidates=2, temperature=50.0)).bind(denoiser).order
    states = [make_state([[0, p, 1 - p] for p in (0.6, 0.6, 0.9, 0.8)], seeds=seed) for seed in range(30)]
    others = {tuple(sorted(drawn(*seen)[0].argsort(descending=True)[:2].tolist())) for seen in states}
    assert all(2 in pair for pair in others) and len(others) == 3, "the most confident one is always tried"


def test_the_passes_of_info_gain_are_counted() -> None:
    """Four masks and three candidates: 1 + 3, 1 + 3, 1 + 2, and 1 in the last step."""
    denoiser = Copies()
    result = decode(denoiser, torch.zeros(2, 4, dtype=torch.int64), Sampler("info_gain:3"))
    assert result.nfe.tolist() == [12, 12] and denoiser.calls == 24
    assert (result.tokens[:, 0] == result.tokens[:, 1]).all()
    two = decode(Copies(), torch.zeros(1, 4, dtype=torch.int64), Sampler("info_gain:3", steps=2))
    assert two.nfe.tolist() == [1 + 3 + 1]
    noisy = decode(Copies(), torch.zeros(1, 4, dtype=torch.int64), Sampler("info_gain:3~0.1"))
    assert noisy.nfe.tolist() == [12], "also inside another order"


def test_info_gain_in_blocks_and_batches() -> None:
    masks = torch.tensor([[0] * 6, [1, 0, 0, 2, 0, 0], [0, 0, 1, 1, 1, 1]])
    sampler = Sampler("info_gain:3", block_length=2, token=Sample())
    together = decode(HashDenoiser(), masks, sampler, seeds=torch.tensor([5, 6, 7]))
    for row in range(3):
        alone = decode(HashDenoiser(), masks[row : row + 1], sampler, seeds=torch.tensor([5 + row]))
        assert torch.equal(alone.tokens[0], together.tokens[row]) and alone.nfe[0] == together.nfe[row]
    assert together.nfe.tolist() == [12, 8, 4], "in each block of two 1 + 2 passes, then 1"


def test_info_gain_is_bound_and_saved_without_its_denoiser(tmp_path: Path, make_state: MakeState) -> None:
    with pytest.raises(BadInput, match="bound to its denoiser first"):
        InfoGain()(*binary(make_state, [0.6]))
    bound = Sampler("info_gain:4:0").bind(Copies())
    bound.save_pretrained(tmp_path)
    loaded = Sampler.from_pretrained(tmp_path)
    assert loaded == bound and loaded.order.denoiser is None


# ---- dependence -------------------------------------------------------------------------------------------------------------

MUTUAL = [[0.1, 0.6, 0.0, 0.3], [0.2, 0.5, 0.3, 0.0], [0.0, 0.1, 0.9, 0.0], [0.1, 0.0, 0.0, 0.9]]
"""s_01 = .4, s_03 = .2, s_12 = .2, and no other: degrees .6, .6, .2, .2."""


def with_mutual(make_state: MakeState, confidences: list[float], **changes: object) -> Seen:
    return binary(make_state, confidences, attention=torch.tensor([MUTUAL]), **changes)


def test_dapd_takes_hubs_first_and_nothing_that_depends_on_them(make_state: MakeState) -> None:
    """Confidence times degree is .36, .48, .19, .18; the second is taken, then neither neighbor, then the fourth."""
    seen = with_mutual(make_state, [0.6, 0.8, 0.95, 0.9])
    assert select(DependenceAware(0.1), seen) == [1, 3]
    assert select(DependenceAware(0.3), seen) == [1, 2, 3], "the edges of .2 do not count"
    assert select(DependenceAware(0.5), seen) == [0, 1, 2, 3]
    assert select(DependenceAware(0.1), with_mutual(make_state, [0.8, 0.6, 0.95, 0.9])) == [0, 2]


def test_dapd_ignores_what_is_not_open(make_state: MakeState) -> None:
    """Without the second position the degrees are .2, 0, .2."""
    seen = with_mutual(make_state, [0.9, 0.8, 0.95, 0.8])
    closed = torch.tensor([[0.0, -torch.inf, 0.0, 0.0]])
    assert DependenceAware(0.1)(closed, *seen, NONE)[0].tolist() == [True, False, True, False]


def test_dapd_goes_by_confidence_in_the_tail(make_state: MakeState) -> None:
    masked = torch.tensor([[True, False, False, False]])
    seen = with_mutual(make_state, [0.5] * 4, masked=masked, generated=torch.ones(1, 4, dtype=torch.bool))
    assert select(DependenceAware(0.1), seen) == [0], "none is above .9: the best-scored one"
    state, prediction = with_mutual(make_state, [0.91, 0.95, 0.5, 0.5])
    later = state.replace(masked=masked)
    assert select(DependenceAware(0.1), (later, prediction)) == [0, 1]
    assert select(DependenceAware(0.1, tail=0.0), (later, prediction)) == [1, 3]


def test_an_independent_set_is_maximal_in_every_row() -> None:
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(50, 9, 9, generator=generator) < 0.2
    edges = (edges | edges.transpose(1, 2)) & ~torch.eye(9, dtype=torch.bool)
    rank = torch.rand(50, 9, generator=generator).masked_fill(torch.rand(50, 9, generator=generator) < 0.2, -torch.inf)
    taken = independent_set(edges, rank)
    assert not (edges & taken[:, :, None] & taken[:, None, :]).any()
    beside = (edges & taken[:, None, :]).any(dim=2)
    assert torch.equal(taken | beside | (rank == -torch.inf), torch.ones_like(taken))


@pytest.mark.parametrize("pad", ["left", "right"])
def test_the_attention_of_a_transformer_is_what_its_output_was_made_of(pad: str) -> None:
    """Weights times values give the same output as the block's own attention, also beside padding."""
    torch.manual_seed(0)
    model = Transformer(vocab_size=5, mask_token_id=0, max_length=8, width=16, layers=4, heads=["everything"] * 2).eval()
    tokens = torch.tensor([[1, 0, 2, 0, 3, 0], [0, 1, 0, 2, 0, 0]])
    real = torch.ones_like(tokens).bool()
    real[1, :2] = False
    tokens, real = (tokens, real) if pad == "left" else (tokens.flip(1), real.flip(1))
    output, attention = with_attention(model, tokens, real, None)
    assert torch.equal(output.logits, model(tokens, real).logits)
    assert torch.allclose(attention.sum(dim=2), torch.ones(2, 6)) and not attention[~real[:, None, :].expand(2, 6, 6)].any()
    block, hidden = model.blocks[0], torch.randn(2, 6, 16)
    value = block.qkv(hidden).view(2, 6, 3, 2, 8)[:, :, 2].transpose(1, 2)
    by_hand = block.attention_out((block.weights(hidden, None) @ value).transpose(1, 2).reshape(2, 6, 16))
    assert torch.allclose(by_hand, block.attend(hidden, None), atol=1e-6)
    assert not model.blocks[0]._forward_pre_hooks


def test_a_denoiser_without_attention_is_one_error() -> None:
    with pytest.raises(BadInput, match="a Copies shows no attention"):
        decode(Copies(), torch.zeros(1, 4, dtype=torch.int64), Sampler("confidence", count="dapd"))


def test_the_attention_of_a_hugging_face_model() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(**small, attn_implementation="eager")
    denoiser = HuggingFaceDenoiser(transformers.BertForMaskedLM(config).eval(), 11, pad_token_id=0)
    tokens = torch.tensor([[0, 0, 3, 11, 11, 4], [5, 11, 11, 6, 11, 7]])
    output, attention = with_attention(denoiser, tokens, tokens != 0, None)
    assert torch.equal(output.logits, denoiser(tokens, tokens != 0).logits)
    raw = denoiser.model(input_ids=tokens[:1, 2:], output_attentions=True).attentions
    expected = torch.stack([raw[2], raw[3]]).mean(dim=(0, 2))[0]  # the last 2 of 4 layers
    assert torch.allclose(attention[0, 2:, 2:], expected, atol=1e-5)
    result = decode(denoiser, tokens, Sampler("confidence", count="dapd:0.18"))
    assert (result.tokens != 11).all() and (result.nfe <= torch.tensor([2, 3])).all()
    sdpa = HuggingFaceDenoiser(transformers.BertForMaskedLM(transformers.BertConfig(**small)).eval(), 11, pad_token_id=0)
    with pytest.raises(BadInput, match="attn_implementation='eager'"):
        decode(sdpa, tokens, Sampler("confidence", count="dapd"))


@pytest.mark.parametrize(("order", "count"), [("confidence", "dapd"), ("info_gain", "fixed:1"), ("info_gain~0.1", "linear")])
def test_what_reads_attention_or_looks_ahead_takes_no_cache(order: str, count: str) -> None:
    with pytest.raises(BadInput, match="use cache='none' with dapd and info_gain"):
        Sampler(order, count=count, block_length=2, cache="dual")
