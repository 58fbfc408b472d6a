"""From text to decoders: `confidence`, `policy+undo`, `confidence@threshold:0.99`, `confidence@blocks:32`,
`policy@bernoulli:0.5`, `policy~0.1`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anyorder.decoding.actions import ACTIONS, PlackettLuce
from anyorder.decoding.blocks import EvenBlocks, InBlocks
from anyorder.decoding.counts import COUNT_RULES, Cosine, CountRule, Linear, SecondLook
from anyorder.decoding.loop import Decoder
from anyorder.decoding.remaskers import Absorbing, QualityUndo, Remasker, RePredict
from anyorder.decoding.tokens import Argmax, TokenRule
from anyorder.errors import BadInput
from anyorder.orders.base import Order
from anyorder.orders.heuristics import HEURISTICS, ORACLES
from anyorder.orders.perturbed import Perturbed, TopPositions
from anyorder.orders.policies import LearnedOrder

UNDO_COUNT = SecondLook()
"""With undo, the first completion is quick, which leaves forwards for a second look."""

PolicyLoader = Callable[[str], LearnedOrder]

NUMBERS: dict[str, tuple[type, ...]] = {
    "fixed": (int,),
    "threshold": (float,),
    "score_threshold": (float,),
    "factor": (float,),
    "entropy_bound": (float,),
    "klass": (float, float, int, int),
    "predicted_error": (float,),
    "plackett_luce": (float,),
    "bernoulli": (float,),
    "dynamic_plackett_luce": (float,),
}
"""What may stand behind the name of a rule, at most; all others take nothing."""


def make_decoder(
    spec: str,
    steps: int,
    noise: float,
    load_policy: PolicyLoader,
    count: CountRule | None = None,
    token: TokenRule | None = None,
) -> Decoder:
    """A decoder from `ORDER[~SIGMA][+repredict|+undo][@blocks:LENGTH][@COUNT]`.

    Args:
        spec: ORDER is a heuristic, an oracle, `top_k:K`, `policy` (the denoiser's own), or the folder of a policy. `X~SIGMA`
            perturbs X's probabilities (see `Perturbed`). `X+undo` orders by X and lets the policy take commitments back. In
            blocks of LENGTH generated positions, the leftmost unfinished one alone is open, and the steps are divided evenly
            among them unless COUNT says otherwise.
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
    order = _order(name, load_policy)
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
    even = EvenBlocks(int(length))
    if isinstance(rule, Cosine | SecondLook):
        raise BadInput("cosine and second_look count over the whole sequence, not in blocks: use linear, fixed, threshold, ...")
    if isinstance(rule, PlackettLuce):
        rule = replace(rule, count=even)
    return InBlocks(order, int(length)), even if isinstance(rule, Linear) else rule


def _order(text: str, load_policy: PolicyLoader) -> Order:
    """The order of `NAME[~SIGMA]`."""
    name, perturbed, sigma = text.rpartition("~")
    if perturbed and not Path(text).exists():
        order = _order(name, load_policy)
        held_to = order.policy.top_positions if isinstance(order, LearnedOrder) else 0
        try:
            return Perturbed(order, float(sigma), held_to)
        except ValueError as error:
            raise BadInput(f"order {text!r}: behind '~' stands the standard deviation of the noise, 0 or more") from error
    if text in HEURISTICS or text in ORACLES:
        return (HEURISTICS | ORACLES)[text]
    if text.startswith("top_k:"):
        try:
            return TopPositions(int(text.removeprefix("top_k:")))
        except ValueError as error:
            raise BadInput(f"order {text!r}: behind 'top_k:' stands a number of positions, 1 or more") from error
    if text == "policy" or Path(text).exists():
        return load_policy(text)
    known = ", ".join([*HEURISTICS, *ORACLES, "top_k:K", "policy"])
    raise BadInput(f"order {text!r} is unknown: use one of {known}, or the folder of a policy")


def parse_count_rule(text: str) -> CountRule:
    """A count rule from `NAME[:NUMBER...]`: `linear`, `fixed:2`, `threshold:0.9`, `klass:0.9:0.01`, or a rule that draws:
    `bernoulli:0.5` and `dynamic_plackett_luce:1` at these temperatures; `plackett_luce:1` draws as many as the linear rule
    takes."""
    name, *values = text.split(":")
    known = COUNT_RULES | ACTIONS
    if name not in known:
        raise BadInput(f"count rule {name!r} is unknown: use one of {', '.join(known)}")
    kinds = NUMBERS.get(name, ())
    if len(values) > len(kinds):
        raise BadInput(f"count rule {text!r}: {name} takes {_how_many(kinds)}")
    try:
        numbers = [kind(value) for kind, value in zip(kinds, values, strict=False)]
    except ValueError as error:
        raise BadInput(f"count rule {text!r}: {':'.join(values)!r} is not a number") from error
    try:
        rule: CountRule = known[name](*numbers)
    except ValueError as error:
        raise BadInput(f"count rule {text!r}: {error}") from error
    return PlackettLuce(rule.temperature, Linear()) if isinstance(rule, PlackettLuce) else rule


def _how_many(kinds: tuple[type, ...]) -> str:
    return "no number" if not kinds else "one number" if len(kinds) == 1 else f"{len(kinds)} numbers at most"


def is_oracle(spec: str) -> bool:
    """Does this order look at the truth?"""
    return _name(spec).split("+")[0] in ORACLES


def is_heuristic(spec: str) -> bool:
    """Is this an absorbing order that needs no training, under whatever count rule?"""
    return _name(spec) in HEURISTICS or _name(spec).startswith("top_k:")


def _name(spec: str) -> str:
    return spec.partition("@")[0].partition("~")[0]
