"""Parts together: paces of orders that close positions, of block-causal denoisers, patterns with remaskers and blocks, and what
the combinations cannot do."""

from collections import Counter
from typing import Any

import pytest
import torch

from anyorder import Sampler, decode, generate
from anyorder.decoding.actions import PlackettLuce
from anyorder.decoding.combined_counts import IfUnsure, TwoPhase
from anyorder.decoding.constraints import AllowedTokens, Automaton, Matching
from anyorder.decoding.counts import KLASS, Linear
from anyorder.decoding.tokens import Redraw
from anyorder.denoisers.transformer import Transformer
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, log_likelihood, uniform
from anyorder.interfaces.arguments import check_budget
from anyorder.interfaces.blocks import BlockSampler
from anyorder.interfaces.dream import diffusion_generate
from anyorder.interfaces.llada import Guided, Without
from anyorder.orders import EndPenalty
from anyorder.orders.half_planned import PlannedFirst
from anyorder.orders.heuristics import left_to_right
from anyorder.orders.perturbed import Perturbed
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

MASK = 6


def net(length: int = 32, block: int | None = None, scale: float = 3.0) -> Transformer:
    torch.manual_seed(0)
    heads = ["everything"] * 2
    made = Transformer(vocab_size=7, mask_token_id=MASK, max_length=length, width=16, layers=2, heads=heads, block_length=block)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(scale)
    return made.eval()


def masks(length: int, rows: int = 1) -> torch.Tensor:
    return torch.full((rows, length), MASK)


def pace(decoded: Any, steps: int, row: int = 0) -> list[int]:
    """How many positions each step committed."""
    counted = Counter(decoded.commit_step[row].tolist())
    return [counted[step] for step in range(steps)]


# ---- paces --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", ["confidence", "top_k:5", "confidence~0.1", Perturbed(lambda s, p: p.scatter(p.drawn_log_probs), 0.1, 5)]
)
@pytest.mark.parametrize(("count", "expected"), [("linear", [2] * 10), ("cosine", None), ("timesteps", None)])
def test_positions_that_an_order_closes_do_not_change_the_pace(order: Any, count: str, expected: list[int] | None) -> None:
    model = net(20)
    plain = pace(decode(model, masks(20), Sampler("confidence", count, steps=10)), 10)
    found = pace(decode(model, masks(20), Sampler(order, count, steps=10)), 10)
    assert plain == (expected or plain)
    most = 5 if "5" in str(order) or isinstance(order, Perturbed) else 20
    if max(plain) <= most:
        assert found == plain
    else:  # at most five a step, and the rest in the last one
        assert found[:-1] == [min(most, n) for n in plain[:-1]] or max(found[:-1]) <= most


@pytest.mark.parametrize(
    "count", ["even_unsure", "entropy_share", "predicted_error:0.01", "number_of:entropy_share", "if_unsure"]
)
def test_a_block_causal_denoiser_gives_each_block_its_share_of_the_steps(count: str) -> None:
    decoded = decode(net(32, block=8), masks(32), Sampler("confidence", count, steps=8, block_length=8))
    found = pace(decoded, 8)
    assert sum(found) == 32 and max(found) <= 8, "no block waits for the last pass"
    ends = [int(decoded.commit_step[0, start : start + 8].max()) for start in range(0, 32, 8)]
    assert ends == sorted(ends) and ends[1] <= 5 and len(set(ends)) == 4


def right_to_left(state: DecodeState, prediction: Prediction) -> torch.Tensor:
    return state.index.float().masked_fill(~prediction.predicted, -torch.inf)


def test_a_planner_orders_the_first_half_whatever_the_denoiser() -> None:
    sampler = Sampler(PlannedFirst(right_to_left, 0.5, left_to_right), "linear", steps=8)
    whole = decode(net(32), masks(32), sampler).commit_step[0]
    assert whole.tolist() == [4 + n // 4 for n in range(16)] + [3 - n // 4 for n in range(16)]
    blocks = decode(net(32, block=8), masks(32), sampler.replace(block_length=8)).commit_step[0].view(4, 8)
    first, second = [1] * 4 + [0] * 4, [0] * 4 + [1] * 4  # of its two steps: from the right, and from the left
    assert [(row - row.amin()).tolist() for row in blocks] == [first, first, second, second]


@pytest.mark.parametrize("count", ["linear", PlackettLuce(1.0, "linear"), IfUnsure("linear", "linear")])  # type: ignore[arg-type]
def test_blocks_are_closed_with_a_remasker(count: Any) -> None:
    sampler = Sampler("confidence", count, remasker="below:0.9", steps=16, block_length=8)
    found = pace(decode(net(32, scale=1.0), masks(32), sampler.replace(count=sampler.count.in_blocks(8))), 16)
    assert found[-1] <= 8


# ---- patterns -----------------------------------------------------------------------------------------------------------


def alternating(first: int, second: int) -> Automaton:
    following = torch.full((2, 7), -1)
    following[0, first], following[1, second] = 1, 0
    return Automaton(following, torch.tensor([True, False]))


@pytest.mark.parametrize("steps", [4, 8, 12])
def test_patterns_with_a_block_causal_denoiser(steps: int) -> None:
    tokens, matching = masks(16), Matching((alternating(0, 1),))
    tokens[:, :4] = 2
    sampler = Sampler("confidence", token=matching, steps=steps)
    for block in (None, 4):
        found = decode(net(16, block=block), tokens, sampler, logits_mask=matching.allowed).tokens
        assert found[0, 4:].tolist() == [0, 1] * 6


@pytest.mark.parametrize("order", ["left_to_right", "confidence", "random"])
@pytest.mark.parametrize("steps", [2, 4, 8, 12])
def test_patterns_with_repredict(order: str, steps: int) -> None:
    tokens, matching = masks(14), Matching((alternating(1, 2), alternating(3, 4)))
    tokens[:, 6:8] = 5
    sampler = Sampler(order, token=matching, remasker="repredict", steps=steps)
    found = decode(net(14), tokens, sampler, logits_mask=matching.allowed).tokens
    assert found[0].tolist() == [1, 2] * 3 + [5, 5] + [3, 4] * 3


def test_a_pattern_without_another_text_takes_a_token_that_was_ruled_out() -> None:
    from anyorder.decoding.remaskers import CriticUndo

    doubts = lambda state, prediction: torch.full(state.tokens.shape, -9.0)  # noqa: E731
    undo = CriticUndo(critic=doubts, level=0.5, keeps_best=False)
    matching = Matching((alternating(0, 1),))
    sampler = Sampler("confidence", "linear", matching, undo, steps=12)
    found = decode(net(6), masks(6), sampler, logits_mask=matching.allowed)
    assert found.tokens[0].tolist() == [0, 1] * 3 and not found.token_log_probs.isnan().any()


def test_an_order_that_looks_ahead_refuses_a_constraint() -> None:
    only = AllowedTokens([{0: {1, 2}}])
    with pytest.raises(BadInput, match="looks ahead with the denoiser does not know the constraint"):
        decode(net(6), masks(6), "info_gain:2", logits_mask=only)


def test_log_margins_stay_finite_where_one_token_is_left() -> None:
    only = AllowedTokens([{4: {1}, 5: {2}}])
    for sampler in (
        Sampler("log_margin", noise=1.0, steps=3),
        Sampler.parse("log_margin~0.1", steps=3),
        Sampler("max_log_margin", noise=1.0),
    ):
        found = decode(net(6), masks(6), sampler, logits_mask=only)
        assert found.tokens[0, 4:].tolist() == [1, 2] and found.order_log_probs.isfinite().all()


# ---- calls that would drop something ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "around", [lambda m: Guided(m, 1.0, 2), lambda m: Without(m, [3]), lambda m: Without(Guided(m, 1.0, 2), [3])]
)
def test_a_model_in_training_mode_is_evaluated_within_another_one(around: Any) -> None:
    model, modes = net(8).train(), set()
    model.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    decode(around(model), masks(8), "confidence")
    assert modes == {False} and model.training


def test_padding_is_nothing_to_fill() -> None:
    tokens = torch.tensor([[1, 2, 3, MASK, MASK], [MASK, MASK, MASK, 1, MASK]])
    attention = torch.tensor([[True] * 5, [False] * 3 + [True] * 2])
    check_budget(net(5), tokens, attention, 1, 2)
    with pytest.raises(BadInput, match="too few"):
        check_budget(net(5), tokens, None, 1, 2)


def test_an_engines_sampler_drops_no_option() -> None:
    for options in ({"threshold": 0.99}, {"temperature": 1.0}):
        saved = Sampler.parse("margin@threshold:0.5", steps=3)
        with pytest.raises(BadInput, match=f"brings its own rule: leave {next(iter(options))} out"):
            BlockSampler(MASK, {"sampler": saved, **options})
    with pytest.raises(BadInput, match="brings its own rule: leave threshold out"):
        BlockSampler(MASK, {"sampler": "margin@threshold:0.5", "threshold": 0.99})
    assert BlockSampler(MASK, {"sampler": Sampler.parse("margin", steps=3)}).steps == 3
    assert BlockSampler(MASK, {"sampler": "margin", "threshold": 0.9, "temperature": 0.5, "steps": 4}).steps == 4


def test_the_penalty_of_an_end_is_refused_where_no_score_counts() -> None:
    with pytest.raises(BadInput, match='alg "origin" unmasks positions whatever their score'):
        diffusion_generate(net(8), torch.tensor([[1, 2]]), max_new_tokens=4, eos_token_id=3, eos_penalty=5.0, alg="origin")
    assert diffusion_generate(
        net(8), torch.tensor([[1, 2]]), max_new_tokens=4, steps=4, eos_token_id=3, eos_penalty=5.0, alg="entropy"
    ).shape == (1, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TwoPhase("nosuch"), "nosuch"),
        (lambda: IfUnsure(3), "rule is 3; it must be the name of a count rule"),
        (lambda: PlackettLuce(1.0, 3), "count is 3"),
        (lambda: Redraw("nosuch"), "nosuch"),
        (lambda: EndPenalty("confidence", (1,)), "order is 'confidence'; it must be an order"),
        (lambda: KLASS(history="a"), "history is 'a'; it must be a whole number"),
        (lambda: Ends((1.5,)), "tokens is 1.5; it must be a whole number"),
        (lambda: Ends((1,), "a"), "pad is 'a'"),
        (lambda: decode(net(4), masks(4), "confidence", ends=Ends((1,), MASK)), "is the mask, 6"),
        (lambda: decode(net(4), masks(4), "confidence", ends=Ends((2, 99))), "the end is 99; it must be one of .* 0 to 6"),
        (lambda: decode(net(4), masks(4), "confidence", ends=Ends((-1,))), "the end is -1"),
        (lambda: decode(net(4), masks(4), "confidence", ends=Ends((2,), 99)), "the padding behind an end is 99"),
        (lambda: decode(net(4), masks(4), "oracle", x0=torch.tensor([[0, 1, 50, 2]])), "x0 holds the token 50"),
        (lambda: decode(net(4), masks(4), "oracle", x0=torch.tensor([[0, 1, -1, 2]])), "x0 holds the token -1"),
        (lambda: generate(net(4), torch.tensor([[1]]), max_new_tokens=2, seed=2**64), "does not fit 64 bits"),
        (lambda: log_likelihood(Process(net(4), uniform), torch.tensor([1, MASK, MASK, 2]), torch.tensor([0, 1, 1, 2])),
         "x0 differs from a given token"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_error(call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()


def test_inner_parts_can_be_named() -> None:
    assert TwoPhase("linear", "linear") == TwoPhase(Linear(), Linear())
    assert PlackettLuce(1.0, "linear") == PlackettLuce(1.0, Linear())
    assert Redraw("argmax", "sample").again == Redraw().again
