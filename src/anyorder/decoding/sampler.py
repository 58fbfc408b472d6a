"""A sampler: the four answers (where, how many, what, what to remask) and the budget, as one value that can be saved."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anyorder.decoding.counts import CountRule, FunctionRule, Linear, TwoPhase
from anyorder.decoding.remaskers import Absorbing, Remasker
from anyorder.decoding.tokens import Argmax, TokenRule
from anyorder.errors import BadInput
from anyorder.files import read_json, write_json, write_text
from anyorder.hub import Pushable, download
from anyorder.memory import Memory
from anyorder.orders.base import Binding, Order, Unbound
from anyorder.orders.learned import Critic, LearnedOrder, SavedOrder, check_denoiser, load_policy
from anyorder.orders.perturbed import Perturbed
from anyorder.orders.policies import PolicyNetwork
from anyorder.parts import from_config, label_of, memories_of, rebuild, spelling, to_config, walk
from anyorder.registry import COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES

FORMAT = "anyorder.sampler"
VERSION = 1
_PARTS = ("order", "count", "token", "remasker")


@dataclass(frozen=True)
class Sampler(Pushable):
    """How a batch is decoded. Parts are objects, or their names: `Sampler("confidence", count="threshold:0.9", steps=20)`.

    Args:
        order: where to unmask. A name, the folder of a policy, or any function of a state and a prediction.
        count: how many positions per step; by default `Linear()`, which spreads them evenly over the steps, and `TwoPhase()`
            with a remasker that reviews complete sequences.
        token: which token; by default `Argmax()`.
        remasker: what to remask; by default `Absorbing()`: nothing.
        steps: forward passes that a sequence may cost; None for as many as it has positions to fill. The last step unmasks
            everything that remains.
        block_length: decode in blocks of so many generated positions, from left to right; None for all positions at once.
        noise: scale of the Gumbel noise added to the scores. With it, a rule that fixes the number draws positions from
            Plackett-Luce with logits score / noise.

    Raises:
        BadInput: an unknown name, or parts that do not work together.
    """

    order: Order
    count: CountRule = None  # type: ignore[assignment]  # set below
    token: TokenRule = Argmax()
    remasker: Remasker = Absorbing()
    steps: int | None = None
    block_length: int | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        made = {
            "order": as_order(self.order),
            "token": _made(self.token, TOKEN_RULES),
            "remasker": _made(self.remasker, REMASKERS),
        }
        rule = _made(self.count, COUNT_RULES)
        if rule is None:
            rule = TwoPhase() if made["remasker"].reviews else Linear()
        made["count"] = rule if isinstance(rule, CountRule) else FunctionRule(rule)
        for name, value in made.items():
            if not callable(value) and name != "remasker":
                raise BadInput(f"{name} is {value!r}; it must be a name or a part, see `anyorder list`")
            object.__setattr__(self, name, value)
        if not isinstance(self.remasker, Remasker):
            raise BadInput(f"remasker is {self.remasker!r}; it must be the name of a remasker or a `Remasker`")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"steps is {self.steps}; at least one forward pass is needed")
        if not self.noise >= 0:
            raise BadInput(f"noise is {self.noise}; the scale of Gumbel noise is 0 or more")
        if self.block_length is not None:
            if self.block_length < 1:
                raise BadInput(f"block_length is {self.block_length}; a block has at least one position")
            if not self.remasker.in_blocks:
                raise BadInput("a finished block stays as it is: use the remasker 'none' in blocks")
            object.__setattr__(self, "count", self.count.in_blocks(self.block_length))

    # ---- text ---------------------------------------------------------------------------------------------------------

    @classmethod
    def parse(cls, text: str, **fields: Any) -> "Sampler":
        """A sampler from `ORDER[~SIGMA][+REMASKER][@blocks:LENGTH][@COUNT]`, the spelling of the command line.

        Args:
            text: such as `confidence`, `policy+undo`, `confidence@threshold:0.99`, `margin@blocks:32`, `policy~0.1`. ORDER may
                be the folder of a policy, `X~SIGMA` perturbs the probabilities of X (see `Perturbed`), and every part takes its
                arguments as `NAME:VALUE` (see `Registry.make`).
            fields: further fields of the sampler. `count` is the rule to use where the text names none.

        Raises:
            BadInput: text of another form, or an unknown name.
        """
        where, *rules = text.split("@")
        blocks = [rule for rule in rules if rule.startswith("blocks")]
        counts = [rule for rule in rules if rule not in blocks]
        if len(blocks) > 1 or len(counts) > 1:
            raise BadInput(f"sampler {text!r}: write one count rule behind '@', and '@blocks:LENGTH' once")
        if blocks:
            length = blocks[0].removeprefix("blocks:")
            if not length.isdecimal() or int(length) < 1:
                raise BadInput(f"{blocks[0]!r}: blocks are written blocks:32, by the number of positions in each")
            fields["block_length"] = int(length)
        if counts:
            fields["count"] = counts[0]
        order, plus, remasker = where.partition("+") if not Path(where).exists() else (where, "", "")
        if plus:
            fields["remasker"] = remasker
        try:
            return cls(as_order(order), **fields)
        except BadInput as error:
            raise BadInput(f"sampler {text!r}: {error}") from error

    def __str__(self) -> str:
        """The spelling that `parse` reads; parts that have none are shown by the name of their function or class."""
        text = _order_text(self.order)
        if self.remasker != Absorbing():
            text += f"+{label_of(self.remasker, REMASKERS)}"
        if self.block_length is not None:
            text += f"@blocks:{self.block_length}"
        default = TwoPhase() if self.remasker.reviews else Linear()
        usual = default if self.block_length is None else default.in_blocks(self.block_length)
        return text if self.count == usual else f"{text}@{label_of(self.count, COUNT_RULES)}"

    # ---- parts --------------------------------------------------------------------------------------------------------

    @cached_property
    def memories(self) -> tuple[Memory, ...]:
        """What the parts remember of earlier predictions."""
        return memories_of(*(getattr(self, name) for name in _PARTS))

    def replace(self, **changes: Any) -> "Sampler":
        """A copy with some fields changed."""
        if "block_length" not in changes and self.block_length is not None and "count" not in changes:
            copied = dataclasses.replace(self, block_length=None, **changes)
            object.__setattr__(copied, "block_length", self.block_length)
            return copied
        return dataclasses.replace(self, **changes)

    def bind(self, denoiser: Any, *, strict: bool = True) -> "Sampler":
        """The sampler with every part that depends on the denoiser loaded, such as the order `policy`.

        Raises:
            BadInput: the denoiser has no policy of its own, or one without a critic.
            WrongDenoiser: a policy was fitted to another denoiser, and `strict`.
        """
        if not any(isinstance(inside, Unbound) for name in _PARTS for inside in walk(getattr(self, name))):
            return self
        changed: dict[str, Any] = {}
        binding = Binding(denoiser, strict)
        for name in _PARTS:
            part = rebuild(getattr(self, name), lambda p: p.bind(binding) if isinstance(p, Unbound) else p)  # noqa: B023
            if part is not getattr(self, name):
                changed[name] = part
            if name == "order":
                binding = dataclasses.replace(binding, order=part)
        return self.replace(**changed)

    # ---- saving -------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `sampler.json`, a card, and the weights of policies and critics in folders beside them.

        Raises:
            BadInput: a part that cannot be found again by name, such as a lambda.
        """
        folder = Path(folder)
        saved: dict[int, str] = {}

        def weights(part: Any) -> dict[str, Any] | None:
            if not isinstance(part, LearnedOrder | Critic):
                return None
            network: PolicyNetwork = part.policy
            if id(network) not in saved:
                saved[id(network)] = f"policy-{len(saved)}"
                network.save_pretrained(folder / saved[id(network)])
            values = {"weights": saved[id(network)], "as": "critic" if isinstance(part, Critic) else "order"}
            critic = part.critic if isinstance(part, LearnedOrder) else None
            return values if critic is None else {**values, "critic": weights(critic)}

        values: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        values |= {name: to_config(getattr(self, name), weights) for name in _PARTS}
        values |= {name: getattr(self, name) for name in ("steps", "block_length", "noise")}
        write_json(folder / "sampler.json", values)
        write_text(folder / "README.md", _card(self))

    @classmethod
    def from_pretrained(cls, name: str | Path, denoiser: Any = None, *, strict: bool = True, **options: Any) -> "Sampler":
        """Load a sampler from a folder or a hub id.

        Args:
            name: folder or hub id.
            denoiser: the model that it will be used with; policies are checked against it and moved to its device.
            strict: a policy of another denoiser is an error; otherwise a warning.
            options: of the download: revision, token, cache_dir, ...

        Raises:
            BadInput: no sampler there, a damaged one, or one with a part that is not installed here.
            WrongDenoiser: a policy was fitted to another denoiser, and `strict`.
        """
        folder = download(name, **options)
        path = folder / "sampler.json"
        if not path.is_file():
            raise BadInput(f"{folder} holds no sampler (no sampler.json): save one with Sampler.save_pretrained")
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BadInput(f"{path} is not a sampler: its format is not {FORMAT!r}")
        if values.get("version") != VERSION:
            raise BadInput(f"{path} has version {values.get('version')!r} of the format; this anyorder reads version {VERSION}")
        loaded: dict[str, PolicyNetwork] = {}

        def weights(entry: Mapping[str, Any]) -> Any:
            part = str(entry.get("weights"))
            if not part or Path(part).name != part or entry.get("as") not in ("order", "critic"):
                raise BadInput(f"{path} is damaged: {json.dumps(dict(entry))[:80]} is no part of a sampler")
            if part not in loaded:
                loaded[part] = load_policy(folder / part)
                if denoiser is not None:
                    check_denoiser(loaded[part], denoiser, folder / part, strict=strict)
                    loaded[part].to(next((p.device for p in denoiser.parameters()), "cpu"))
            network = loaded[part]
            if entry["as"] == "critic":
                return Critic(network)
            return LearnedOrder(network, weights(entry["critic"]) if entry.get("critic") else None)

        try:
            parts = {key: from_config(values[key], weights) for key in _PARTS}
            plain = {key: values[key] for key in ("steps", "noise")}
            sampler = cls(**parts, **plain)
            object.__setattr__(sampler, "block_length", values["block_length"])  # the count rule is one for blocks already
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is damaged: {type(error).__name__} {error}") from error
        return sampler


def as_order(order: Any) -> Order:
    """An order by its name, `NAME~SIGMA`, or the folder of a policy; anything else is returned as it is.

    Raises:
        BadInput: an unknown name.
    """
    if isinstance(order, Path):
        return SavedOrder(str(order))
    if not isinstance(order, str):
        return order  # type: ignore[no-any-return]
    name, perturbed, sigma = order.rpartition("~")
    if perturbed and not Path(order).exists():
        try:
            return Perturbed(as_order(name), float(sigma))
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"order {order!r}: behind '~' stands the standard deviation of the noise, 0 or more") from error
    if order not in ORDERS and Path(order).is_dir():
        return SavedOrder(order)
    try:
        return ORDERS.make(order)  # type: ignore[no-any-return]
    except BadInput as error:
        raise BadInput(f"{error}, or the folder of a policy" if "unknown" in str(error) else str(error)) from error


def _made(part: Any, registry: Any) -> Any:
    return registry.make(part) if isinstance(part, str) else part


def _order_text(order: Any) -> str:
    if isinstance(order, Perturbed):
        return f"{_order_text(order.order)}~{order.sigma:g}"
    if isinstance(order, SavedOrder) and order.folder:
        return order.folder
    if isinstance(order, LearnedOrder):
        return "policy"
    try:
        return spelling(order, ORDERS)
    except BadInput:
        return label_of(order, ORDERS)


def _card(sampler: Sampler) -> str:
    """A model card for the hub."""
    rows = "\n".join(f"- {name}: {getattr(sampler, name)}" for name in ("steps", "block_length", "noise"))
    return f"""---
library_name: anyorder
tags: [masked-diffusion, sampler]
---

# A sampler for a masked diffusion model

`{sampler}`

{rows}

```python
import anyorder

sampler = anyorder.Sampler.from_pretrained("THIS_FOLDER", denoiser)
result = anyorder.decode(denoiser, tokens, sampler)
```
"""
