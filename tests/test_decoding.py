"""What holds for every sampler: the invariants, as properties."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyorder.decoding.callbacks import callbacks_of
from anyorder.decoding.combined_counts import IfUnsure, TwoPhase
from anyorder.decoding.counts import KLASS, Cosine, CountRule, Factor, Fixed, Linear, PredictedError, Threshold, top
from anyorder.decoding.entropy_counts import EntropyBound, EntropyShare
from anyorder.decoding.loop import decode
from anyorder.decoding.published_remaskers import P2, Below, Prism, Wino
from anyorder.decoding.remaskers import CriticUndo, Remasker, RePredict
from anyorder.decoding.remdm import SCHEDULES, ReMDM
from anyorder.decoding.result import Decoded, History
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.decoding.tokens import Argmax, Redraw, Sample, TokenRule
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.files import write_tensors
from anyorder.memory import Drift
from anyorder.orders import heuristics
from anyorder.orders.learned import Critic, LearnedOrder
from anyorder.orders.perturbed import Perturbed
from anyorder.orders.policies import LookaheadPolicy
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState
from conftest import HashDenoiser
from every_part import network

pytestmark = pytest.mark.filterwarnings("ignore:nothing to decode")
VOCAB = 5
COUNTS: list[CountRule] = [
    Linear(), Cosine(), PredictedError(0.3), Fixed(1), Fixed(3),
    Threshold(0.6), Factor(1.0), EntropyBound(0.5), EntropyShare(), KLASS(0.4, 0.5), KLASS(0.3, 2.0, history=1),
]  # fmt: skip
TOKENS: list[TokenRule] = [Argmax(), Sample(), Sample(temperature=0.5, top_p=0.7)]


def fickle(state: DecodeState, prediction: Prediction) -> Tensor:
    """A critic that doubts tokens by a fixed rule, so that much of a complete sequence is remasked."""
    return ((state.tokens * 3 + state.index) % 4 - 1.5).float()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Token batches with some masks (0), and a seed."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=length, max_size=length), min_size=batch, max_size=batch))
    return torch.tensor(rows), draw(st.integers(0, 2**40))


REMASKING: list[Remasker] = [P2(2.0), Wino(), Below(0.4), Prism(1, fickle), *(ReMDM(name, 0.4) for name in SCHEDULES)]
samplers = st.builds(
    Sampler,
    order=st.sampled_from([ORDERS.make(name) for name in ORDERS.names(baseline=True)]),
    count=st.sampled_from(COUNTS),
    token=st.sampled_from(TOKENS),
    steps=st.one_of(st.none(), st.integers(1, 12)),
    noise=st.sampled_from([0.0, 0.5]),
)
any_mode = st.builds(
    lambda sampler, remasker: sampler.replace(remasker=remasker or sampler.remasker),
    samplers,
    st.sampled_from([None, RePredict(), *REMASKING, CriticUndo(critic=fickle), CriticUndo(0.3, 0.0, False, critic=fickle)]),
)


@settings(max_examples=150, deadline=None)
@given(problems(), any_mode)
def test_given_tokens_stay_no_mask_is_left_and_the_budget_holds(problem: tuple[Tensor, int], sampler: Sampler) -> None:
    tokens, seed = problem
    before = tokens.clone()
    out = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=seed)
    given = tokens != 0
    assert (tokens == before).all()  # the input is not written to
    assert (out.tokens[given] == tokens[given]).all()
    assert (out.tokens != 0).all()
    budget = (~given).sum(dim=1) if sampler.steps is None else sampler.steps
    assert (out.nfe <= budget).all()
    assert ((out.nfe == 0) == given.all(dim=1)).all()
    assert ((out.commit_step >= 0) == ~given).all()
    assert (out.commit_step < out.nfe[:, None]).all()


@settings(max_examples=100, deadline=None)
@given(problems(), samplers)
def test_absorbing_commits_every_position_exactly_once(problem: tuple[Tensor, int], sampler: Sampler) -> None:
    tokens, seed = problem
    history = History(tokens)
    out = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=seed, on_step=history)
    kept = torch.stack(history.tokens)
    for before, after in itertools.pairwise(kept):
        assert (after[before != 0] == before[before != 0]).all()
    became = (kept[:-1] == 0) & (kept[1:] != 0)
    assert (became.sum(dim=0) == (tokens == 0)).all()
    first = became.long().argmax(dim=0) if len(became) else torch.zeros_like(tokens)
    assert (out.commit_step[tokens == 0] == first[tokens == 0]).all()
    assert (out.remasked == 0).all()


@settings(max_examples=100, deadline=None)
@given(problems(), any_mode, st.integers(0, 3), st.booleans())
def test_a_sequence_does_not_notice_its_batch_nor_its_padding(
    problem: tuple[Tensor, int], sampler: Sampler, padding: int, left: bool
) -> None:
    tokens, seed = problem
    together = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=seed)
    row = tokens.shape[0] - 1
    pad = torch.full((1, padding), 3)
    real, no = torch.ones(1, tokens.shape[1], dtype=torch.bool), torch.zeros(1, padding, dtype=torch.bool)
    alone_tokens = torch.cat([pad, tokens[row:]] if left else [tokens[row:], pad], dim=1)
    mask = torch.cat([no, real] if left else [real, no], dim=1)
    alone = decode(HashDenoiser(VOCAB), alone_tokens, sampler, seeds=torch.tensor([seed + row]), attention_mask=mask)
    cut = slice(padding, None) if left else slice(0, tokens.shape[1])
    assert (alone.tokens[0, cut] == together.tokens[row]).all()
    assert (alone.commit_step[0, cut] == together.commit_step[row]).all()
    assert alone.nfe[0] == together.nfe[row]
    torch.testing.assert_close(alone.order_log_probs[0, cut], together.order_log_probs[row])


@pytest.mark.parametrize("left", [True, False])
def test_a_transformer_gives_the_same_samples_in_any_batch_and_padding(tiny_transformer: Transformer, left: bool) -> None:
    model = tiny_transformer.double()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 5, (6, 9), generator=generator)
    sampler = Sampler("confidence", token=Sample(), steps=4, noise=0.5)
    together = decode(model, tokens, sampler, seeds=11)
    for row in range(6):
        pad, no = torch.full((1, 3), 4), torch.zeros(1, 3, dtype=torch.bool)
        real = torch.ones(1, 9, dtype=torch.bool)
        padded = torch.cat([pad, tokens[row : row + 1]] if left else [tokens[row : row + 1], pad], dim=1)
        mask = torch.cat([no, real] if left else [real, no], dim=1)
        alone = decode(model, padded, sampler, seeds=torch.tensor([11 + row]), attention_mask=mask)
        assert (alone.tokens[0, 3:] if left else alone.tokens[0, :9]).tolist() == together.tokens[row].tolist()


def test_different_seeds_give_different_samples() -> None:
    tokens = torch.zeros(20, 8, dtype=torch.int64)
    out = decode(HashDenoiser(VOCAB), tokens, Sampler(heuristics.random, Linear(), Sample(), steps=4))
    assert len({tuple(row) for row in out.tokens.tolist()}) > 10


def test_finished_rows_cost_no_forward_passes() -> None:
    sizes = []

    class Counting(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            sizes.append(len(tokens))
            return super().forward(tokens, attention_mask, positions)

    tokens = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]])
    out = decode(Counting(VOCAB), tokens, Sampler(heuristics.confidence, Fixed(1)))
    assert sizes == [2, 1, 1, 1]
    assert out.nfe.tolist() == [4, 1, 0]


def test_only_open_positions_get_logits() -> None:
    asked = []

    class Recording(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            asked.append(int(positions.sum()))
            return super().forward(tokens, attention_mask, positions)

    tokens = torch.tensor([[0, 0, 0, 1]])
    decode(Recording(VOCAB), tokens, Sampler(heuristics.confidence, Fixed(1)))
    assert asked == [3, 2, 1]
    asked.clear()
    decode(Recording(VOCAB), tokens, Sampler(heuristics.confidence, Linear(), remasker=RePredict(), steps=3))
    assert asked == [3, 3, 3]


def test_drift_is_the_divergence_from_the_prediction_one_step_before() -> None:
    """Of every open position, the latest first; inf where there was no earlier prediction to compare with."""
    outputs: list[StepOutput] = []
    tokens = torch.tensor([[0, 0, 1, 0, 0], [0, 2, 0, 0, 0]])
    decode(HashDenoiser(VOCAB), tokens, Sampler("confidence", KLASS(confidence=1.0)), on_step=outputs.append)
    before = torch.zeros(2, 5, VOCAB)
    last = torch.full((2, 5), torch.inf)
    for output in outputs:
        now = output.prediction.probabilities().double()
        moved = (now[..., 1:] * (now[..., 1:] / before[..., 1:]).log()).sum(-1)
        expected = torch.where(output.before.masked & (before.sum(-1) > 0), moved, torch.inf)
        drift, _ = output.before.recall(Drift(2))
        torch.testing.assert_close(drift[..., 0].double(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(drift[..., 1], last, rtol=1e-4, atol=1e-6)
        before, last = now, drift[..., 0]
    assert len(outputs) == 4


def test_a_memory_that_no_part_declares_is_not_kept() -> None:
    kept = []
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    decode(HashDenoiser(VOCAB), tokens, Sampler("confidence"), on_step=lambda output: kept.append(output.before.memory))
    assert kept == [{}] * 3


def test_klass_waits_until_a_prediction_has_been_seen_three_times() -> None:
    class Certain(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            out = super().forward(tokens, attention_mask, positions)
            logits = torch.tensor([-torch.inf, 0.0, 9.0, 1.0, 0.0], dtype=torch.float64).expand_as(out.logits)
            return out._replace(logits=logits)

    out = decode(Certain(VOCAB), torch.zeros(1, 6, dtype=torch.int64), Sampler(heuristics.confidence, KLASS()))
    assert out.commit_step.tolist() == [[0, 1, 2, 2, 2, 2]]


def test_repredict_can_change_a_committed_token() -> None:
    tokens = torch.zeros(30, 8, dtype=torch.int64)
    history = History(tokens)
    decode(HashDenoiser(VOCAB), tokens, Sampler(heuristics.confidence, remasker=RePredict(), steps=8), on_step=history)
    before, after = torch.stack(history.tokens[:-1]), torch.stack(history.tokens[1:])
    assert ((before != 0) & (after != 0) & (before != after)).any()


def test_what_repredict_masks_again_counts_as_remasked() -> None:
    seen: list[StepOutput] = []
    tokens = torch.zeros(20, 8, dtype=torch.int64)
    out = decode(HashDenoiser(VOCAB), tokens, Sampler("confidence", remasker=RePredict(), steps=8), on_step=seen.append)
    again = sum(((~o.before.masked & o.after.masked).sum(dim=1) for o in seen), torch.zeros(20, dtype=torch.int64))
    assert again.any() and torch.equal(out.remasked, again)
    for output in seen:
        assert torch.equal(output.after.masked, output.after.commit_step < 0)
        assert (output.after.token_log_probs[output.after.masked] == 0).all()


@pytest.mark.parametrize(
    "order", ["top_k:4", Perturbed(heuristics.confidence, 0.2, 4), LearnedOrder(network("upo", top_positions=4))]
)
def test_orders_of_the_most_confident_positions_keep_tokens_with_repredict(order: Any) -> None:
    seen: list[StepOutput] = []
    tokens = torch.zeros(5, 8, dtype=torch.int64)
    decode(HashDenoiser(VOCAB), tokens, Sampler(order, remasker=RePredict(), steps=8), on_step=seen.append)
    most = 8 if isinstance(order, LearnedOrder) else 4  # the policy puts the others behind, and closes none
    for number, output in enumerate(seen[:-1], start=1):
        assert ((~output.after.masked).sum(dim=1) == min(number, most)).all()
        confidence = output.prediction.scatter(output.prediction.drawn_log_odds)
        inside = confidence >= confidence.sort(dim=1).values[:, 4:5]
        assert ((output.selected & inside).sum(dim=1) == min(number, 4)).all()


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_undo_keeps_a_token_that_the_denoiser_has_no_other_for(noise: float) -> None:
    class Certain(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            out = super().forward(tokens, attention_mask)
            logits = out.logits.clone()
            logits[:, 1] = torch.tensor([-torch.inf, -torch.inf, 0.5, -torch.inf, -torch.inf])  # one token alone
            return out._replace(logits=logits[positions])

    critic = lambda state, prediction: torch.full(state.tokens.shape, -3.0)  # noqa: E731
    undo = CriticUndo(critic=critic, noise=noise, temperature=noise, keeps_best=False)
    out = decode(Certain(VOCAB), torch.zeros(2, 3, dtype=torch.int64), Sampler("confidence", Fixed(1), remasker=undo, steps=11))
    assert (out.tokens[:, 1] == 2).all() and (out.tokens != 0).all() and (out.remasked > 0).all()
    assert out.token_log_probs.isfinite().all()


def test_undo_remasks_and_does_not_repeat_itself() -> None:
    def doubts_twos(state: DecodeState, prediction: Prediction) -> Tensor:
        return torch.where(state.tokens == 2, -5.0, 5.0)

    class LovesTwos(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            out = super().forward(tokens, attention_mask, positions)
            logits = torch.tensor([-torch.inf, 0.0, 9.0, 1.0, 0.0], dtype=torch.float64).expand_as(out.logits)
            return out._replace(logits=logits)

    tokens = torch.zeros(1, 4, dtype=torch.int64)
    again = {"critic": doubts_twos, "noise": 0, "temperature": 0}
    out = decode(LovesTwos(VOCAB), tokens, Sampler("confidence", Fixed(2), remasker=CriticUndo(**again), steps=6))
    assert out.tokens.tolist() == [[3, 3, 3, 3]]
    assert out.remasked.item() == 4
    forgetful = Sampler("confidence", Fixed(2), remasker=CriticUndo(remembers=False, **again), steps=6)
    assert decode(LovesTwos(VOCAB), tokens, forgetful).tokens.tolist() == [[2, 2, 2, 2]]


def test_a_complete_sequence_without_a_mistake_is_left_alone() -> None:
    def content(state: DecodeState, prediction: Prediction) -> Tensor:
        return torch.where(state.index == 0, 3.0, 5.0)  # probabilities .953 and .993: one below the level of doubt

    tokens = torch.zeros(1, 4, dtype=torch.int64)
    out = decode(
        HashDenoiser(VOCAB), tokens, Sampler(heuristics.confidence, Fixed(2), remasker=CriticUndo(critic=content), steps=9)
    )
    assert out.remasked.item() == 0
    assert out.nfe.item() == 3  # two to fill, one to review


def test_undo_goes_on_until_the_critic_accepts_with_new_positions_and_tokens() -> None:
    def wants_equal_ends(state: DecodeState, prediction: Prediction) -> Tensor:
        wrong = (state.tokens[:, :1] != state.tokens[:, -1:]) & ((state.index == 0) | (state.index == 5))
        return torch.where(wrong, 1.0, 5.0)

    tokens = torch.zeros(20, 6, dtype=torch.int64)
    plain = Sampler("confidence", Fixed(2), steps=60)
    undo = plain.replace(remasker=CriticUndo(critic=wants_equal_ends, accept=0.9))
    out = decode(HashDenoiser(VOCAB), tokens, undo)
    first = decode(HashDenoiser(VOCAB), tokens, plain)
    accepted = first.tokens[:, 0] == first.tokens[:, -1]
    assert (out.tokens[:, 0] == out.tokens[:, -1]).all()
    assert torch.equal(out.remasked == 0, accepted), "only what was not accepted is opened again"
    assert torch.equal(out.tokens[accepted], first.tokens[accepted])
    assert (out.nfe[accepted] == 4).all(), "three to fill, one to review"
    alone = [decode(HashDenoiser(VOCAB), tokens[:1], undo, seeds=seed) for seed in range(20)]
    assert torch.equal(out.tokens, torch.cat([one.tokens for one in alone]))


@pytest.mark.parametrize("keeps_best", [True, False])
def test_undo_returns_the_reviewed_sequence_that_the_critic_preferred(keeps_best: bool) -> None:
    def counts_threes(state: DecodeState, prediction: Prediction) -> Tensor:  # never enough to accept
        return (0.5 + 0.25 * (state.tokens == 3).sum(dim=1, keepdim=True)).expand_as(state.tokens)

    seen: dict[int, list[int]] = {}

    def watch(output: StepOutput) -> None:
        for row, done, tokens in zip(output.before.row, output.before.finished, output.before.tokens, strict=True):
            if done:
                seen.setdefault(int(row), []).append(int((tokens == 3).sum()))

    remasker = CriticUndo(critic=counts_threes, accept=0.99, keeps_best=keeps_best)
    sampler = Sampler("confidence", Fixed(2), remasker=remasker, steps=30)
    out = decode(HashDenoiser(VOCAB), torch.zeros(20, 6, dtype=torch.int64), sampler, on_step=watch)
    found = (out.tokens == 3).sum(dim=1).tolist()
    assert ([max(seen[row]) for row in range(20)] == found) is keeps_best
    assert (out.tokens != 0).all() and (out.commit_step >= 0).all()


def test_undo_loses_patience_and_decodes_the_whole_sequence_anew() -> None:
    def doubts_the_first(state: DecodeState, prediction: Prediction) -> Tensor:
        return torch.where(state.index == 0, -5.0, 9.0)

    reviews: list[tuple[int, list[int], bool]] = []

    def watch(output: StepOutput) -> None:
        if output.before.finished.any():
            age = int(output.before.step - output.before.commit_step.amin())
            opened = output.after.masked[0].nonzero()[:, 0].tolist()
            reviews.append((age, opened, bool((output.after.rejected >= 0).any())))

    remasker = CriticUndo(critic=doubts_the_first, keeps_best=False, patience=6)
    sampler = Sampler("confidence", Fixed(2), remasker=remasker, steps=30)
    decode(HashDenoiser(VOCAB), torch.zeros(1, 4, dtype=torch.int64), sampler, on_step=watch)
    assert [opened for _, opened, _ in reviews] == [[0] if age < 6 else [0, 1, 2, 3] for age, _, _ in reviews]
    assert [ruled_out for *_, ruled_out in reviews] == [age < 6 for age, *_ in reviews], "a new start rules nothing out"
    assert sum(age >= 6 for age, *_ in reviews) >= 3
    with pytest.raises(BadInput, match="patience is 0"):
        CriticUndo(patience=0)


def test_what_was_opened_again_is_drawn_with_noise_and_nothing_else_is() -> None:
    def never(state: DecodeState, prediction: Prediction) -> Tensor:
        return torch.full(state.tokens.shape, -5.0)

    sampler = Sampler("confidence", Fixed(1), remasker=CriticUndo(critic=never, keeps_best=False), steps=9)
    scales = []

    def watch(output: StepOutput) -> None:
        scale = sampler.noise_scale(output.before)
        assert isinstance(scale, Tensor)
        assert torch.equal(scale[:, 0] > 0, output.before.remasked > 0)
        assert torch.equal(
            (output.after.order_log_probs != 0).any(dim=1), (output.before.remasked > 0) & output.selected.any(dim=1)
        )
        scales.append(float(scale.max()))

    decode(HashDenoiser(VOCAB), torch.zeros(1, 4, dtype=torch.int64), sampler, on_step=watch)
    assert scales == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_redraw_draws_where_something_was_remasked(make_state: Callable[..., tuple[DecodeState, Prediction]]) -> None:
    for remasked in (0, 2):
        state, prediction = make_state([[0.0, 0.6, 0.4]] * 50, seeds=3, remasked=remasked)
        expected = (Sample() if remasked else Argmax())(state, prediction)
        found = Redraw()(state, prediction)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1].float())
        assert (found[0] == 2).any() == bool(remasked)


def test_a_critic_says_from_which_probability_it_accepts() -> None:
    policy = LookaheadPolicy(hidden_size=4, vocab_size=VOCAB, width=8, layers=1, scores_committed=True, about={"accept": 0.8})
    assert CriticUndo(critic=Critic(policy)).accept_level == 0.8
    assert CriticUndo(critic=Critic(policy), accept=0.6).accept_level == 0.6
    policy.about = {"accept": "much"}
    assert CriticUndo(level=0.2, critic=Critic(policy)).accept_level == 0.2


@pytest.mark.parametrize("wrong", [{"level": 2}, {"accept": -0.1}, {"noise": math.inf}, {"temperature": -1}])
def test_undo_refuses_what_is_no_probability_and_no_scale(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        CriticUndo(**wrong)


def test_order_log_probabilities_of_one_at_a_time_are_softmax_of_score_over_noise(hash_denoiser: HashDenoiser) -> None:
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    out = decode(hash_denoiser, tokens, Sampler(heuristics.left_to_right, Fixed(1), noise=2.0), seeds=5)
    path = out.commit_step[0].argsort().tolist()
    expected = 0.0
    left = [0, 1, 2]
    for position in path:
        logits = [-i / 2.0 for i in left]
        expected += -position / 2.0 - math.log(sum(math.exp(v) for v in logits))
        left.remove(position)
    assert out.order_log_probs.sum().item() == pytest.approx(expected, rel=1e-5)


def test_sampling_matches_its_distribution() -> None:
    class Fixed3(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            out = super().forward(tokens, attention_mask, positions)
            p = torch.tensor([0.0, 0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
            return out._replace(logits=p.log().expand_as(out.logits))

    tokens = torch.zeros(4000, 1, dtype=torch.int64)
    plain = decode(Fixed3(VOCAB), tokens, Sampler(heuristics.random, token=Sample(), steps=1))
    shares = torch.bincount(plain.tokens[:, 0], minlength=5) / 4000
    assert shares.tolist() == pytest.approx([0, 0.5, 0.3, 0.2, 0], abs=0.03)
    cut = decode(Fixed3(VOCAB), tokens, Sampler(heuristics.random, token=Sample(top_p=0.75), steps=1))
    shares = torch.bincount(cut.tokens[:, 0], minlength=5) / 4000
    assert shares.tolist() == pytest.approx([0, 5 / 8, 3 / 8, 0, 0], abs=0.03)
    cold = decode(Fixed3(VOCAB), tokens, Sampler(heuristics.random, token=Sample(temperature=0.05), steps=1))
    assert (cold.tokens == 1).all()


def test_a_result_can_be_saved_and_read_again(hash_denoiser: HashDenoiser, tmp_path: Path) -> None:
    out = decode(hash_denoiser, torch.zeros(2, 4, dtype=torch.int64), Sampler(heuristics.margin, steps=2))
    out.save(tmp_path / "out.safetensors")
    again = Decoded.load(tmp_path / "out.safetensors")
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(out).items())
    write_tensors(tmp_path / "other.safetensors", dict(vars(out)), {"format": "anyorder.decoded", "version": "99"})
    with pytest.raises(BadInput, match=r"format is 'anyorder\.decoded', version '99'"):
        Decoded.load(tmp_path / "other.safetensors")
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="holds no decoded sequences"):
        Decoded.load(tmp_path / "bad")


def test_every_row_has_its_own_budget_unless_one_is_given() -> None:
    """Without `steps`, the linear rule fills one position per step in every row, whatever the others need."""
    tokens = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 1], [2, 2, 2, 0]])
    out = decode(HashDenoiser(VOCAB), tokens, Sampler("confidence"))
    assert out.nfe.tolist() == [4, 2, 1]
    assert decode(HashDenoiser(VOCAB), tokens, Sampler("confidence", steps=2)).nfe.tolist() == [2, 2, 1]


def test_tokens_without_a_mask_are_returned_with_a_warning() -> None:
    tokens = torch.tensor([[1, 2], [3, 4]])
    with pytest.warns(UserWarning, match=r"no token is the mask \(0\)"):
        out = decode(HashDenoiser(VOCAB), tokens, "confidence")
    assert out.tokens.equal(tokens) and out.nfe.tolist() == [0, 0]


def test_an_empty_batch_is_decoded_to_an_empty_result() -> None:
    out = decode(HashDenoiser(VOCAB), torch.zeros(0, 4, dtype=torch.int64), "confidence")
    assert out.tokens.shape == (0, 4)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (torch.zeros(4, dtype=torch.int64), r"shape \(4,\); they must be int64 \(batch, length\)"),
        (torch.zeros(2, 4), "torch.float32"),
        (torch.tensor([[0, 9]]), "go up to 9, and the denoiser has a vocabulary of 5"),
    ],
)
def test_tokens_that_the_denoiser_cannot_read_are_refused(tokens: Tensor, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        decode(HashDenoiser(VOCAB), tokens, "confidence")


def _bad(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda state, prediction: change(heuristics.confidence(state, prediction))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (_bad(lambda s: s * torch.nan), "returned NaN scores"),
        (_bad(lambda s: s.masked_fill(torch.arange(s.shape[1]) == 1, torch.nan)), "returned NaN scores"),
        (_bad(lambda s: s[:, :-1]), r"scores of shape \(2, 2\); they must be \(2, 3\)"),
        (_bad(lambda s: s[0]), r"scores of shape \(3,\); they must be \(2, 3\)"),
        (_bad(lambda s: s[..., None]), r"scores of shape \(2, 3, 1\)"),
    ],
)
def test_scores_that_are_nan_or_of_another_shape_are_refused(order: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        decode(HashDenoiser(VOCAB), torch.zeros(2, 3, dtype=torch.int64), Sampler(order))


@pytest.mark.parametrize("scores", [None, 0.5, [1.0, 2.0]])
def test_scores_that_are_no_tensor_are_refused(scores: object) -> None:
    with pytest.raises(BadInput, match="must be a float tensor"):
        decode(HashDenoiser(VOCAB), torch.zeros(2, 3, dtype=torch.int64), Sampler(lambda state, prediction: scores))


def test_a_count_rule_may_be_a_plain_function() -> None:
    def two(scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return top(scores, torch.full_like(remasked, 2))

    tokens = torch.zeros(1, 6, dtype=torch.int64)
    assert decode(HashDenoiser(VOCAB), tokens, Sampler("confidence", two)).nfe.tolist() == [3]


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("noise", -1.0), ("noise", math.nan), ("block_length", 0)])
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=field):
        Sampler("confidence", **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature"):
        Sample(temperature=0)


@pytest.mark.parametrize("callbacks", [3, [None], "print"])
def test_a_callback_that_cannot_be_called_is_refused_before_decoding(callbacks: Any) -> None:
    with pytest.raises(BadInput, match=r"on_step is .* must be a function"):
        callbacks_of(callbacks)


@pytest.mark.parametrize("argument", ["0.9", None, True])
def test_a_count_rule_whose_argument_is_no_number_is_refused(argument: Any) -> None:
    with pytest.raises(BadInput, match=r"level is .* must be a number"):
        Sampler("confidence", count=Threshold(argument))


def test_a_critic_says_at_which_pace_the_first_completion_is() -> None:
    about = {"pace": "entropy_share:0.5:even_below=6"}
    policy = LookaheadPolicy(hidden_size=4, vocab_size=VOCAB, width=8, layers=1, scores_committed=True, about=about)
    assert CriticUndo(critic=Critic(policy)).usual_count == TwoPhase(EntropyShare(0.5, even_below=6))
    policy.about = {"pace": "quick"}
    with pytest.raises(BadInput, match="quick"):
        _ = CriticUndo(critic=Critic(policy)).usual_count
    policy.about = {}
    assert CriticUndo(critic=Critic(policy)).usual_count == TwoPhase()


@pytest.mark.parametrize("about", [{"unsure_above": 0.9}, {"unsure_above": 1}, {"unsure_above": 0.9, "pace": "linear"}])
def test_a_critic_says_of_which_sequences_the_first_completion_is_at_another_pace(about: dict[str, Any]) -> None:
    policy = LookaheadPolicy(hidden_size=4, vocab_size=VOCAB, width=8, layers=1, scores_committed=True, about=about)
    first = Linear() if "pace" in about else EntropyShare()
    assert CriticUndo(critic=Critic(policy)).usual_count == TwoPhase(IfUnsure(first, above=about["unsure_above"]))
    for damaged in ("much", True, None, -1.0):
        policy.about = {"unsure_above": damaged}
        assert CriticUndo(critic=Critic(policy)).usual_count == TwoPhase()
