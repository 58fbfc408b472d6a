"""From names to decoders: `confidence`, `policy+undo`, `confidence+repredict`, `confidence@threshold:0.99`,
`confidence@blocks:32`."""

from collections.abc import Callable
from pathlib import Path

from anyorder.decoding.blocks import EvenBlocks, InBlocks
from anyorder.decoding.counts import COUNT_RULES, CountRule, EntropyBound, Factor, Fixed, Linear, SecondLook, Threshold
from anyorder.decoding.loop import Decoder
from anyorder.decoding.remaskers import Absorbing, QualityUndo, Remasker, RePredict
from anyorder.decoding.tokens import Argmax, TokenRule
from anyorder.errors import BadInput
from anyorder.orders.base import Order
from anyorder.orders.heuristics import HEURISTICS, ORACLES
from anyorder.orders.policies import LearnedOrder

UNDO_COUNT = SecondLook()
"""With undo, the first completion is quick, which leaves forwards for a second look."""

PolicyLoader = Callable[[str], LearnedOrder]


def make_decoder(
    spec: str,
    steps: int,
    noise: float,
    load_policy: PolicyLoader,
    count: CountRule | None = None,
    token: TokenRule | None = None,
) -> Decoder:
    """A decoder from `ORDER[+repredict|+undo][@blocks:LENGTH][@COUNT]`.

    Args:
        spec: ORDER is a heuristic, an oracle, `policy` (the denoiser's own), or the folder of a policy. `X+undo` orders by X
            and lets the policy take commitments back. In blocks of LENGTH generated positions, the leftmost unfinished one
            alone is open, and the steps are divided evenly among them unless COUNT says otherwise.
        steps: budget of forwards.
        noise: scale of Gumbel noise on the scores.
        load_policy: gives the policy of a name or folder.
        count: the count rule where the spec names none; when not given, linear, or `UNDO_COUNT` with undo.
        token: what token to put; the likeliest when not given.
    """
    where, *rules = spec.split("@")
    blocks = [rule for rule in rules if rule.startswith("blocks")]
    counts = [rule for rule in rules if rule not in blocks]
    if len(blocks) > 1 or len(counts) > 1:
        raise BadInput(f"order {spec!r}: after @ comes one count rule, and @blocks:LENGTH once")
    if counts:
        count = parse_count_rule(counts[0])
    name, *modes = where.split("+")
    if len(modes) > 1 or (modes and modes[0] not in ("repredict", "undo")):
        raise BadInput(f"order {spec!r}: after the order's name comes nothing, '+repredict' or '+undo'")
    order: Order
    if name in HEURISTICS or name in ORACLES:
        order = (HEURISTICS | ORACLES)[name]
    elif name == "policy" or Path(name).exists():
        order = load_policy(name)
    else:
        known = ", ".join([*HEURISTICS, *ORACLES, "policy"])
        raise BadInput(f"order {name!r} is unknown: use one of {known}, or the folder of a policy")
    remasker: Remasker = Absorbing()
    rule = count or Linear()
    if modes == ["repredict"]:
        remasker = RePredict()
    elif modes == ["undo"]:
        judge = order if isinstance(order, LearnedOrder) else load_policy("policy")
        if not judge.judges:
            raise BadInput(f"order {spec!r}: this policy was fitted without a quality score, so it cannot undo")
        remasker = QualityUndo(judge)
        rule = count or UNDO_COUNT
    if blocks:
        if modes:
            raise BadInput(f"order {spec!r}: a finished block stays as it is, so nothing is undone in blocks")
        order, rule = _in_blocks(order, rule, blocks[0])
    return Decoder(order, rule, token or Argmax(), remasker, steps, noise)


def _in_blocks(order: Order, rule: CountRule, text: str) -> tuple[Order, CountRule]:
    """An order and a count rule that are held to `blocks:LENGTH`."""
    length = text.removeprefix("blocks:")
    if not length.isdecimal() or int(length) < 1:
        raise BadInput(f"{text!r}: blocks are written blocks:32, by the number of positions in each")
    if not isinstance(rule, Linear | Fixed | Threshold | Factor | EntropyBound):
        raise BadInput("in blocks the count rule is linear, fixed, threshold, factor or entropy_bound")
    return InBlocks(order, int(length)), EvenBlocks(int(length)) if isinstance(rule, Linear) else rule


def parse_count_rule(text: str) -> CountRule:
    """`linear`, `cosine`, `fixed:2`, `threshold:0.9`, `factor:1`, `entropy_bound:0.1`, `predicted_error:0.1`,
    `second_look`."""
    name, _, value = text.partition(":")
    if name not in COUNT_RULES:
        raise BadInput(f"count rule {name!r} is unknown: use one of {', '.join(COUNT_RULES)}")
    try:
        number = [int(value) if name == "fixed" else float(value)] if value else []
    except ValueError as error:
        raise BadInput(f"count rule {text!r}: {value!r} is not a number") from error
    if number and name in ("linear", "cosine", "second_look"):
        raise BadInput(f"count rule {text!r}: {name} takes no number")
    try:
        rule: CountRule = COUNT_RULES[name](*number)
    except ValueError as error:
        raise BadInput(f"count rule {text!r}: {error}") from error
    return rule


def is_oracle(spec: str) -> bool:
    """Does this order look at the truth?"""
    return spec.partition("@")[0].split("+")[0] in ORACLES


def is_heuristic(spec: str) -> bool:
    """Is this an absorbing order that needs no training, under whatever count rule?"""
    return spec.partition("@")[0] in HEURISTICS
