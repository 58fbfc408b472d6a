"""Drawn selections: probabilities of all actions by enumeration, draws that follow them, and float32 where exp overflows."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from anyorder.decoding.actions import Actions, Bernoulli, DynamicPlackettLuce, PlackettLuce
from anyorder.decoding.counts import Fixed
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState

NEVER = -math.inf
SCORES = {
    "one position": [0.7],
    "two": [1.3, -0.4],
    "three, one unavailable": [0.3, NEVER, -1.0],
    "four": [0.3, -1.0, 2.0, 0.0],
    "four, two unavailable": [NEVER, 0.5, NEVER, -2.0],
    "very low beside unavailable ones": [NEVER, -1e4, NEVER, -1e4 + 1],
    "nothing available": [NEVER, NEVER],
}
KINDS: dict[str, Callable[[], Actions]] = {
    "plackett-luce of 1": lambda: PlackettLuce(count=Fixed(1)),
    "plackett-luce of 2": lambda: PlackettLuce(0.7, Fixed(2)),
    "plackett-luce of 3": lambda: PlackettLuce(1.6, Fixed(3)),
    "bernoulli": lambda: Bernoulli(0.8),
    "dynamic": lambda: DynamicPlackettLuce(1.4),
}


DRAWING = [name for name in COUNT_RULES if issubclass(COUNT_RULES[name], Actions)]


def state_of(
    rows: int, length: int, seeds: Tensor | None = None, padding: int = 0, step: int = 0
) -> tuple[DecodeState, Prediction]:
    """Rows of which every real position is masked; padding on the left."""
    real = (torch.arange(length + padding) >= padding).expand(rows, -1)
    numbers = torch.arange(rows)
    state = DecodeState.start(
        torch.zeros(real.shape, dtype=torch.int64), real, 0, numbers if seeds is None else seeds,
        torch.full_like(numbers, length), real if padding else None,
    )  # fmt: skip
    prediction = Prediction(torch.zeros(int(real.sum()), 3), torch.zeros(*real.shape, 1), real)
    return state.replace(step=torch.full_like(numbers, step)), prediction


def draw(actions: Actions, scores: Tensor, seeds: Tensor | None = None, padding: int = 0, step: int = 0) -> Tensor:
    state, prediction = state_of(len(scores), scores.shape[1] - padding, seeds, padding, step)
    return actions.draw(scores, state, prediction, torch.zeros(len(scores), dtype=torch.int64))


def possible(actions: Actions, scores: list[float]) -> Iterator[tuple[int, ...]]:
    """Every action, as the positions drawn, in their order where the order matters."""
    available = [i for i, s in enumerate(scores) if s > NEVER]
    if isinstance(actions, Bernoulli):
        for count in range(len(available) + 1):
            yield from itertools.combinations(available, count)
    elif isinstance(actions, DynamicPlackettLuce):
        for count in range(min(1, len(available)), len(available) + 1):
            yield from itertools.permutations(available, count)
    else:
        assert isinstance(actions, PlackettLuce) and isinstance(actions.count, Fixed)
        yield from itertools.permutations(available, min(actions.count.k, len(available)))


def as_drawn(actions: Actions, positions: tuple[int, ...], length: int) -> list[int]:
    drawn = [-1] * length
    for number, position in enumerate(positions):
        drawn[position] = number if actions.ordered else 0
    return drawn


def all_actions(actions: Actions, scores: list[float]) -> Tensor:
    return torch.tensor([as_drawn(actions, positions, len(scores)) for positions in possible(actions, scores)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_all_actions_sum_to_one(kind: str, name: str, dtype: torch.dtype) -> None:
    actions, drawn = KINDS[kind](), all_actions(KINDS[kind](), SCORES[name])
    scores = torch.tensor([SCORES[name]], dtype=dtype).expand(len(drawn), -1)
    log_prob = actions.log_prob(scores, drawn)
    assert log_prob.dtype == dtype
    rounding = 1e-6 + 4 * torch.finfo(dtype).eps * abs(min((s for s in SCORES[name] if s > NEVER), default=0.0))
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=rounding)


def test_probabilities_worked_out_by_hand() -> None:
    scores = torch.tensor([[math.log(1.0), math.log(2.0), NEVER, math.log(3.0)]], dtype=torch.float64)

    def probability(actions: Actions, drawn: list[int]) -> float:
        return actions.log_prob(scores, torch.tensor([drawn])).exp().item()

    assert probability(PlackettLuce(count=Fixed(1)), [-1, 0, -1, -1]) == pytest.approx(2 / 6)
    assert probability(PlackettLuce(count=Fixed(2)), [-1, 1, -1, 0]) == pytest.approx(3 / 6 * 2 / 3)
    assert probability(PlackettLuce(temperature=0.5, count=Fixed(1)), [-1, 0, -1, -1]) == pytest.approx(4 / 14)
    assert probability(Bernoulli(), [-1, 0, -1, 0]) == pytest.approx(1 / 2 * 2 / 3 * 3 / 4)
    assert probability(Bernoulli(), [-1, -1, -1, -1]) == pytest.approx(1 / 2 * 1 / 3 * 1 / 4)
    dynamic = DynamicPlackettLuce()  # STOP weighs 1, from the second draw on
    assert probability(dynamic, [-1, -1, -1, 0]) == pytest.approx(3 / 6 * 1 / 4)
    assert probability(dynamic, [-1, 1, -1, 0]) == pytest.approx(3 / 6 * 2 / 4 * 1 / 2)
    assert probability(dynamic, [2, 1, -1, 0]) == pytest.approx(3 / 6 * 2 / 4 * 1 / 2 * 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["two", "three, one unavailable", "four", "four, two unavailable"])
def test_draws_follow_the_probabilities(kind: str, name: str) -> None:
    actions, scores, count = KINDS[kind](), SCORES[name], 20_000
    drawn = draw(actions, torch.tensor([scores]).expand(count, -1))
    options = all_actions(actions, scores)
    observed = (drawn[:, None] == options).all(dim=2).double().sum(dim=0)
    assert observed.sum().item() == count, "something was drawn that cannot be"
    exact = actions.log_prob(torch.tensor([scores], dtype=torch.float64).expand(len(options), -1), options).exp()
    # rare actions are counted as one, which keeps the statistic a chi-square
    rare = exact * count < 5
    observed, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (observed, exact * count))
    seen = expected > 0
    statistic = ((observed - expected) ** 2 / expected)[seen].sum().item()
    assert statistic <= chi2.ppf(1 - 1e-4, max(1, int(seen.sum()) - 1))


def test_a_wrong_probability_would_be_noticed() -> None:
    """The power of the test above: a temperature that is a tenth off fails it."""
    scores = torch.tensor([SCORES["four"]]).expand(20_000, -1)
    observed = (draw(PlackettLuce(1.1, Fixed(1)), scores)[:, None] == torch.eye(4).long() - 1).all(dim=2).double().sum(dim=0)
    expected = 20_000 * torch.softmax(scores[0].double(), dim=0)
    assert ((observed - expected) ** 2 / expected).sum().item() > chi2.ppf(1 - 1e-4, 3)


def test_draws_differ_from_step_to_step() -> None:
    scores = torch.zeros(1000, 4)
    for actions in (PlackettLuce(count=Fixed(1)), Bernoulli(), DynamicPlackettLuce()):
        same = (draw(actions, scores, step=0) == draw(actions, scores, step=1)).all(dim=1).double().mean().item()
        assert same < 0.35


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["two", "three, one unavailable", "four"])
def test_gradients_agree_with_differences_and_with_enumeration(kind: str, name: str) -> None:
    """Finite differences of the log-probability, and the identity that the score function is 0 on average."""
    actions, options = KINDS[kind](), all_actions(KINDS[kind](), SCORES[name])
    given = torch.tensor(SCORES[name], dtype=torch.float64)
    free = given[given > NEVER].requires_grad_()

    def log_probs(free: Tensor) -> Tensor:
        scores = given.masked_scatter(given > NEVER, free)
        return actions.log_prob(scores.expand(len(options), -1), options)

    assert torch.autograd.gradcheck(log_probs, (free,))
    chances = log_probs(free)
    (average,) = torch.autograd.grad((chances.exp().detach() * chances).sum(), free)
    assert average.abs().max().item() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "scores",
    [[1e4, -1e4, 0.0, 3.0], [1e4, 1e4 - 2, -1e4, NEVER], [-1e4, -1e4, -1e4, -1e4 + 1], [NEVER, -1e4, 1e4, NEVER]],
    ids=["far apart", "two high", "all low", "with unavailable ones"],
)
def test_log_probabilities_are_stable_in_float32_where_exp_overflows(kind: str, scores: list[float]) -> None:
    actions, options = KINDS[kind](), all_actions(KINDS[kind](), scores)
    single = torch.tensor([scores]).expand(len(options), -1).clone().requires_grad_()
    double = torch.tensor([scores], dtype=torch.float64).expand(len(options), -1).clone().requires_grad_()
    found, exact = actions.log_prob(single, options), actions.log_prob(double, options)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-2)
    (gradient,) = torch.autograd.grad(found.sum(), single)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), double)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-2, atol=1e-2)
    assert (gradient[single == NEVER] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_extreme_scores_are_possible_and_the_best(kind: str) -> None:
    actions = KINDS[kind]()
    drawn = draw(actions, torch.tensor([[-1e4, 1e4, NEVER, -2e4]]).expand(200, -1))
    assert (drawn[:, 1] == 0).all()
    assert (drawn[:, 2] == -1).all()
    assert torch.isfinite(actions.log_prob(torch.tensor([[-1e4, 1e4, NEVER, -2e4]]).expand(200, -1), drawn)).all()


score_lists = st.lists(st.one_of(st.just(NEVER), st.floats(-5, 5, width=32)), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", KINDS)
@given(scores=score_lists, others=st.integers(0, 4), padding=st.integers(0, 3), seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_draws_depend_neither_on_the_batch_nor_on_padding(
    kind: str, scores: list[float], others: int, padding: int, seed: int
) -> None:
    actions = KINDS[kind]()
    alone = draw(actions, torch.tensor([scores]), torch.tensor([seed]))
    noise = torch.randn(others, len(scores), generator=torch.Generator().manual_seed(seed % 1000))
    batch = torch.cat([noise, torch.tensor([scores])])
    padded = torch.cat([torch.full((len(batch), padding), NEVER), batch], dim=1)
    seeds = torch.cat([torch.arange(others), torch.tensor([seed])])
    drawn = draw(actions, padded, seeds, padding)
    assert drawn[-1, padding:].tolist() == alone[0].tolist()
    assert (drawn[:, :padding] == -1).all()
    torch.testing.assert_close(
        actions.log_prob(padded, drawn)[-1:], actions.log_prob(torch.tensor([scores]), alone), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@given(scores=score_lists, seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_selections_are_available_positions_and_at_least_one(kind: str, scores: list[float], seed: int) -> None:
    actions, rows = KINDS[kind](), torch.tensor([scores])
    drawn = draw(actions, rows, torch.tensor([seed]))
    selected = actions.selection(rows, drawn)
    assert not (selected & (rows == NEVER)).any()
    assert selected.any() == (rows > NEVER).any()
    assert (selected | (drawn < 0)).all(), "what was drawn is unmasked"
    if actions.ordered:
        numbers = sorted(n for n in drawn[0].tolist() if n >= 0)
        assert numbers == list(range(len(numbers)))
    state, prediction = state_of(1, len(scores), torch.tensor([seed]))
    assert actions(rows, state, prediction, torch.zeros(1, dtype=torch.int64)).equal(selected)


def test_plackett_luce_draws_as_many_as_the_linear_rule_by_default() -> None:
    scores = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    state, prediction = state_of(50, 6)
    state = state.replace(steps=torch.full_like(state.steps, 3))
    drawn = PlackettLuce().draw(scores, state, prediction, torch.zeros(50, dtype=torch.int64))
    assert ((drawn >= 0).sum(dim=1) == 2).all()


def test_a_bernoulli_draw_of_nothing_unmasks_the_best_and_keeps_the_probability_of_nothing() -> None:
    scores = torch.tensor([[-1.0, NEVER, -0.5]])
    nothing = torch.full((1, 3), -1)
    assert Bernoulli().selection(scores, nothing).tolist() == [[False, False, True]]
    assert Bernoulli().log_prob(scores, nothing).exp().item() == pytest.approx(
        (1 - 1 / (1 + math.exp(1.0))) * (1 - 1 / (1 + math.exp(0.5)))
    )


def test_bernoulli_at_temperature_zero_is_the_sign_of_the_score() -> None:
    scores = torch.tensor([[0.1, -0.1, 2.0, NEVER], [-3.0, -0.2, NEVER, -1.0]])
    mode = Bernoulli(0.0)
    drawn = draw(mode, scores)
    assert drawn.tolist() == [[0, -1, 0, -1], [-1, -1, -1, -1]]
    assert mode.selection(scores, drawn).tolist() == [[True, False, True, False], [False, True, False, False]]
    with pytest.raises(ValueError, match="must be a finite number above 0"):
        mode.log_prob(scores, drawn)


def test_bernoulli_nears_its_mode_as_the_temperature_falls() -> None:
    scores = torch.tensor([[0.1, -0.1, 2.0, NEVER]]).expand(500, -1)
    assert draw(Bernoulli(1e-3), scores).equal(draw(Bernoulli(0.0), scores))


def test_stop_has_the_same_score_at_every_temperature() -> None:
    scores = torch.zeros(1, 2, dtype=torch.float64)
    only_first = torch.tensor([[0, -1]])
    for temperature in (0.1, 1.0, 10.0):
        assert DynamicPlackettLuce(temperature).log_prob(scores, only_first).exp().item() == pytest.approx(1 / 4)


@pytest.mark.parametrize("name", DRAWING)
def test_a_temperature_below_zero_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="temperature is -1"):
        COUNT_RULES[name](-1.0)
    if name != "bernoulli":
        with pytest.raises(ValueError, match="temperature is 0"):
            COUNT_RULES[name](0.0)
