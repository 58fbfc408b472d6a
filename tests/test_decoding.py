"""What holds for every decoder: the invariants, as properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyorder.decoding.counts import KLASS, Cosine, CountRule, EntropyBound, Factor, Fixed, Linear, PredictedError, Threshold
from anyorder.decoding.loop import Decoder, decode
from anyorder.decoding.remaskers import QualityUndo, RePredict
from anyorder.decoding.tokens import Argmax, Sample, TokenRule
from anyorder.decoding.trajectory import Decoded
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.orders import heuristics
from anyorder.orders.base import State
from conftest import HashDenoiser

VOCAB = 5
COUNTS: list[CountRule] = [
    Linear(), Cosine(), PredictedError(0.3), Fixed(1), Fixed(3),
    Threshold(0.6), Factor(1.0), EntropyBound(0.5), PredictedError(0.3), KLASS(0.4, 0.5), KLASS(0.3, 2.0, history=1),
]  # fmt: skip
TOKENS: list[TokenRule] = [Argmax(), Sample(), Sample(temperature=0.5, top_p=0.7)]


class Fickle:
    """A judge that doubts tokens by a fixed rule, so that much of a complete sequence is undone."""

    def quality(self, state: State) -> Tensor:
        return ((state.tokens * 3 + state.index) % 4 - 1.5).float()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Token batches with some masks (0), and a seed."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=length, max_size=length), min_size=batch, max_size=batch))
    return torch.tensor(rows), draw(st.integers(0, 2**40))


decoders = st.builds(
    Decoder,
    order=st.sampled_from(list(heuristics.HEURISTICS.values())),
    count=st.sampled_from(COUNTS),
    token=st.sampled_from(TOKENS),
    steps=st.one_of(st.none(), st.integers(1, 12)),
    noise=st.sampled_from([0.0, 0.5]),
)
any_mode = st.builds(
    lambda d, r: Decoder(d.order, d.count, d.token, r or d.remasker, d.steps, d.noise),
    decoders,
    st.sampled_from([None, RePredict(), QualityUndo(Fickle()), QualityUndo(Fickle(), remembers=False, doubt=0.0)]),
)


@settings(max_examples=150, deadline=None)
@given(problems(), any_mode)
def test_given_tokens_stay_no_mask_is_left_and_the_budget_holds(problem: tuple[Tensor, int], decoder: Decoder) -> None:
    tokens, seed = problem
    before = tokens.clone()
    out = decode(HashDenoiser(VOCAB), tokens, decoder, seeds=seed)
    given = tokens != 0
    assert (tokens == before).all()  # the input is not written to
    assert (out.tokens[given] == tokens[given]).all()
    assert (out.tokens != 0).all()
    budget = decoder.steps if decoder.steps is not None else max(1, int((~given).sum(dim=1).max()))
    assert (out.forwards <= budget).all()
    assert ((out.forwards == 0) == given.all(dim=1)).all()
    assert ((out.commit_step >= 0) == ~given).all()
    assert (out.commit_step < out.forwards[:, None]).all()


@settings(max_examples=100, deadline=None)
@given(problems(), decoders)
def test_absorbing_commits_every_position_exactly_once(problem: tuple[Tensor, int], decoder: Decoder) -> None:
    tokens, seed = problem
    out = decode(HashDenoiser(VOCAB), tokens, decoder, seeds=seed, history=True)
    assert out.history is not None
    for before, after in zip(out.history[:-1], out.history[1:], strict=True):
        assert (after[before != 0] == before[before != 0]).all()
    became = (out.history[:-1] == 0) & (out.history[1:] != 0)
    assert (became.sum(dim=0) == (tokens == 0)).all()
    first = became.long().argmax(dim=0) if len(became) else torch.zeros_like(tokens)
    assert (out.commit_step[tokens == 0] == first[tokens == 0]).all()
    assert (out.undone == 0).all()


@settings(max_examples=100, deadline=None)
@given(problems(), any_mode, st.integers(0, 3), st.booleans())
def test_a_sequence_does_not_notice_its_batch_nor_its_padding(
    problem: tuple[Tensor, int], decoder: Decoder, padding: int, left: bool
) -> None:
    tokens, seed = problem
    steps = decoder.steps or 12  # None would mean the longest row of the batch
    decoder = Decoder(decoder.order, decoder.count, decoder.token, decoder.remasker, steps, decoder.noise)
    together = decode(HashDenoiser(VOCAB), tokens, decoder, seeds=seed)
    row = tokens.shape[0] - 1
    pad = torch.full((1, padding), 3)
    real, no = torch.ones(1, tokens.shape[1], dtype=torch.bool), torch.zeros(1, padding, dtype=torch.bool)
    alone_tokens = torch.cat([pad, tokens[row:]] if left else [tokens[row:], pad], dim=1)
    mask = torch.cat([no, real] if left else [real, no], dim=1)
    alone = decode(HashDenoiser(VOCAB), alone_tokens, decoder, seeds=torch.tensor([seed + row]), attention_mask=mask)
    cut = slice(padding, None) if left else slice(0, tokens.shape[1])
    assert (alone.tokens[0, cut] == together.tokens[row]).all()
    assert (alone.commit_step[0, cut] == together.commit_step[row]).all()
    assert alone.forwards[0] == together.forwards[row]
    torch.testing.assert_close(alone.order_log_probs[0, cut], together.order_log_probs[row])


@pytest.mark.parametrize("left", [True, False])
def test_a_transformer_gives_the_same_samples_in_any_batch_and_padding(tiny_transformer: Transformer, left: bool) -> None:
    model = tiny_transformer.double()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 5, (6, 9), generator=generator)
    decoder = Decoder(heuristics.confidence, Linear(), Sample(), steps=4, noise=0.5)
    together = decode(model, tokens, decoder, seeds=11)
    for row in range(6):
        pad, no = torch.full((1, 3), 4), torch.zeros(1, 3, dtype=torch.bool)
        real = torch.ones(1, 9, dtype=torch.bool)
        padded = torch.cat([pad, tokens[row : row + 1]] if left else [tokens[row : row + 1], pad], dim=1)
        mask = torch.cat([no, real] if left else [real, no], dim=1)
        alone = decode(model, padded, decoder, seeds=torch.tensor([11 + row]), attention_mask=mask)
        assert (alone.tokens[0, 3:] if left else alone.tokens[0, :9]).tolist() == together.tokens[row].tolist()


def test_different_seeds_give_different_samples() -> None:
    tokens = torch.zeros(20, 8, dtype=torch.int64)
    out = decode(HashDenoiser(VOCAB), tokens, Decoder(heuristics.random, Linear(), Sample(), steps=4))
    assert len({tuple(row) for row in out.tokens.tolist()}) > 10


def test_finished_rows_cost_no_forwards() -> None:
    sizes = []

    class Counting(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            sizes.append(len(tokens))
            return super().forward(tokens, attention_mask, positions)

    tokens = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]])
    out = decode(Counting(VOCAB), tokens, Decoder(heuristics.confidence, Fixed(1)))
    assert sizes == [2, 1, 1, 1]
    assert out.forwards.tolist() == [4, 1, 0]


def test_only_open_positions_get_logits() -> None:
    asked = []

    class Recording(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            asked.append(int(positions.sum()))
            return super().forward(tokens, attention_mask, positions)

    tokens = torch.tensor([[0, 0, 0, 1]])
    decode(Recording(VOCAB), tokens, Decoder(heuristics.confidence, Fixed(1)))
    assert asked == [3, 2, 1]
    asked.clear()
    decode(Recording(VOCAB), tokens, Decoder(heuristics.confidence, Linear(), remasker=RePredict(), steps=3))
    assert asked == [3, 3, 3]


def test_drift_is_the_divergence_from_the_prediction_one_step_before() -> None:
    """Of every open position, the latest first; inf where there was no earlier prediction to compare with."""
    seen: list[State] = []

    class Watching:
        keep_drift = 2

        def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
            seen.append(state)
            return Fixed(1)(scores, state, undone)

    decode(HashDenoiser(VOCAB), torch.tensor([[0, 0, 1, 0, 0], [0, 2, 0, 0, 0]]), Decoder(heuristics.confidence, Watching()))
    before = torch.zeros(2, 5, VOCAB)
    last = torch.full((2, 5), torch.inf)
    for state in seen:
        now = state.probabilities().double()
        moved = (now[..., 1:] * (now[..., 1:] / before[..., 1:]).log()).sum(-1)
        expected = torch.where(state.masked & (before.sum(-1) > 0), moved, torch.inf)
        assert state.drift is not None
        torch.testing.assert_close(state.drift[..., 0].double(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state.drift[..., 1], last, rtol=1e-4, atol=1e-6)
        before, last = now, state.drift[..., 0]
    assert len(seen) == 3, "the last step of the budget unmasks what is left"


def test_what_nobody_asks_for_is_not_kept() -> None:
    def count(scores: Tensor, state: State, undone: Tensor) -> Tensor:
        assert state.drift is None and state.first_look is None
        return Fixed(1)(scores, state, undone)

    decode(HashDenoiser(VOCAB), torch.zeros(1, 3, dtype=torch.int64), Decoder(heuristics.confidence, count))


def test_klass_waits_until_a_prediction_has_been_seen_three_times() -> None:
    class Certain(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            out = super().forward(tokens, attention_mask, positions)
            logits = torch.tensor([-torch.inf, 0.0, 9.0, 1.0, 0.0], dtype=torch.float64).expand_as(out.logits)
            return out._replace(logits=logits)

    out = decode(Certain(VOCAB), torch.zeros(1, 6, dtype=torch.int64), Decoder(heuristics.confidence, KLASS()))
    assert out.commit_step.tolist() == [[0, 1, 2, 2, 2, 2]]


def test_repredict_can_change_a_committed_token() -> None:
    tokens = torch.zeros(30, 8, dtype=torch.int64)
    out = decode(HashDenoiser(VOCAB), tokens, Decoder(heuristics.confidence, remasker=RePredict(), steps=8), history=True)
    assert out.history is not None
    before, after = out.history[:-1], out.history[1:]
    assert ((before != 0) & (after != 0) & (before != after)).any()


def test_undo_takes_back_and_does_not_repeat_itself() -> None:
    class DoubtsTwos:
        def quality(self, state: State) -> Tensor:
            return torch.where(state.tokens == 2, -5.0, 5.0)

    class LovesTwos(HashDenoiser):
        def forward(self, tokens, attention_mask=None, positions=None):  # type: ignore[no-untyped-def]
            out = super().forward(tokens, attention_mask, positions)
            logits = torch.tensor([-torch.inf, 0.0, 9.0, 1.0, 0.0], dtype=torch.float64).expand_as(out.logits)
            return out._replace(logits=logits)

    tokens = torch.zeros(1, 4, dtype=torch.int64)
    remembering = Decoder(heuristics.confidence, Fixed(2), remasker=QualityUndo(DoubtsTwos()), steps=6)
    out = decode(LovesTwos(VOCAB), tokens, remembering)
    assert out.tokens.tolist() == [[3, 3, 3, 3]]
    assert out.undone.item() == 4
    forgetful = Decoder(heuristics.confidence, Fixed(2), remasker=QualityUndo(DoubtsTwos(), remembers=False), steps=6)
    assert decode(LovesTwos(VOCAB), tokens, forgetful).tokens.tolist() == [[2, 2, 2, 2]]


def test_a_complete_sequence_without_a_mistake_is_left_alone() -> None:
    class Content:
        def quality(self, state: State) -> Tensor:
            return torch.where(state.index == 0, 1.0, 5.0)  # all above one half, one below the level of doubt

    tokens = torch.zeros(1, 4, dtype=torch.int64)
    out = decode(
        HashDenoiser(VOCAB), tokens, Decoder(heuristics.confidence, Fixed(2), remasker=QualityUndo(Content()), steps=9)
    )
    assert out.undone.item() == 0
    assert out.forwards.item() == 3  # two to fill, one to look back


def test_order_log_probabilities_of_one_at_a_time_are_softmax_of_score_over_noise(hash_denoiser: HashDenoiser) -> None:
    tokens = torch.zeros(1, 3, dtype=torch.int64)
    out = decode(hash_denoiser, tokens, Decoder(heuristics.left_to_right, Fixed(1), noise=2.0), seeds=5)
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
    plain = decode(Fixed3(VOCAB), tokens, Decoder(heuristics.random, token=Sample(), steps=1))
    shares = torch.bincount(plain.tokens[:, 0], minlength=5) / 4000
    assert shares.tolist() == pytest.approx([0, 0.5, 0.3, 0.2, 0], abs=0.03)
    cut = decode(Fixed3(VOCAB), tokens, Decoder(heuristics.random, token=Sample(top_p=0.75), steps=1))
    shares = torch.bincount(cut.tokens[:, 0], minlength=5) / 4000
    assert shares.tolist() == pytest.approx([0, 5 / 8, 3 / 8, 0, 0], abs=0.03)
    cold = decode(Fixed3(VOCAB), tokens, Decoder(heuristics.random, token=Sample(temperature=0.05), steps=1))
    assert (cold.tokens == 1).all()


def test_a_result_can_be_saved_and_read_again(hash_denoiser: HashDenoiser, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = decode(hash_denoiser, torch.zeros(2, 4, dtype=torch.int64), Decoder(heuristics.margin, steps=2), history=True)
    out.save(tmp_path / "out.safetensors")
    again = Decoded.load(tmp_path / "out.safetensors")
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(out).items())
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="holds no decoded sequences"):
        Decoded.load(tmp_path / "bad")


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("noise", -1.0)])
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Decoder(heuristics.confidence, **{field: value})
    with pytest.raises(ValueError, match="temperature"):
        Sample(temperature=0)
