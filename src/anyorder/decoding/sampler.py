"""A sampler: the four answers (where, how many, what, what to remask) and the budget, as one value that can be saved."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.blocks import check_fits_denoiser
from anyorder.decoding.cache import Cache, Refresh, check_cache
from anyorder.decoding.caches import CacheRule, none
from anyorder.decoding.counts import CountRule, FunctionRule, as_rule
from anyorder.decoding.order_text import as_order, holds_part, order_text
from anyorder.decoding.part_checks import check_numbers, checked_part
from anyorder.decoding.remaskers import Absorbing, Remasker
from anyorder.decoding.sampler_card import card_of
from anyorder.decoding.spelling import fields_of
from anyorder.decoding.tokens import Argmax, Redraw, Sample, TokenRule
from anyorder.denoisers.base import device_of
from anyorder.denoisers.blocks import block_length_of
from anyorder.errors import LARGEST_FINITE, BadInput, check_number, check_whole
from anyorder.files import read_json, write_json, write_text, written_as_a_whole
from anyorder.hub import Pushable, download
from anyorder.memory import Memory
from anyorder.orders.base import Binding, Order, Unbound
from anyorder.orders.learned import Critic, LearnedOrder, SavedOrder, check_or_note, check_unchecked, load_policy, networks_of
from anyorder.orders.policies import PolicyNetwork
from anyorder.parts import from_config, label_of, memories_of, rebuild, to_config, walk
from anyorder.registry import CACHES, COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES
from anyorder.signatures import checked
from anyorder.state import DecodeState

FORMAT = "anyorder.sampler"
VERSION = 1
_PARTS = {"order": "order", "count": "count rule", "token": "token rule", "remasker": "remasker", "cache": "cache"}
_NUMBERS = ("steps", "block_length", "noise", "anneal", "refresh")
_LATER = ("anneal", "cache", "refresh")
"""Fields that older files lack."""


@dataclass(frozen=True)
class Sampler(Pushable):
    """How a batch is decoded. Parts are objects, or their names: `Sampler("confidence", count="threshold:0.9", steps=20)`.

    Args:
        order: where to unmask. A name, the folder of a policy, or any function of a state and a prediction.
        count: how many positions per step; by default what the remasker was published with (`Remasker.usual_count`), mostly
            `Linear()`, which spreads them evenly over the steps, and `TwoPhase()` with one that reviews complete sequences.
        token: which token; by default `Argmax()`.
        remasker: what to remask; by default `Absorbing()`: nothing.
        steps: forward passes that a sequence may cost; None for as many as it has positions to fill. The last step unmasks
            everything that remains.
        block_length: decode in blocks of this many generated positions, from left to right; None for all positions at once, or
            the blocks of a block-causal denoiser, which are counted over all positions and must be multiples of it.
        noise: scale of the Gumbel noise added to the scores. With it, a rule that fixes the number draws positions from
            Plackett-Luce with logits score / noise.
        anneal: lower the noise linearly, to noise * (1 - (step + 1) / steps), which is 0 in the last step (MaskGIT, arXiv
            2202.04200).
        cache: in blocks, which positions every pass computes; keys and values of the others are those of earlier passes:
            "none"; "prefix", where the positions before the open block are read; "dual", where all outside it are; or
            "window:16"; "exact" for block-causal denoisers. See `anyorder.decoding.caches`.
        refresh: when a pass computes all positions of a sequence: "block", at each new block; an int, every so many steps; a
            float, in the step after the hidden states of the open block have drifted by more than this share.

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
    anneal: bool = False
    cache: CacheRule = none
    refresh: Refresh = "block"

    def __post_init__(self) -> None:
        remasker = _made(self.remasker, REMASKERS)
        if not isinstance(remasker, Remasker):
            raise BadInput(f"remasker is {remasker!r}; it must be the name of a remasker, or a `Remasker`")
        rule = as_rule("count", remasker.usual_count if self.count is None else self.count)
        object.__setattr__(self, "order", checked_part("order", as_order(self.order), "order"))
        object.__setattr__(self, "count", rule)
        object.__setattr__(self, "token", checked_part("token", _made(self.token, TOKEN_RULES), "token rule"))
        object.__setattr__(self, "remasker", remasker)
        for part in (self.count, self.token, self.remasker):
            check_numbers(part)
        for name, what in (("steps", "forward passes"), ("block_length", "positions")):
            value = getattr(self, name)
            check_whole(name, value)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
                raise BadInput(f"{name} is {value!r}; it must be a whole number of {what}, 1 or more")
        check_number("noise", self.noise, 0, LARGEST_FINITE)
        if not isinstance(self.anneal, bool):
            raise BadInput(f"anneal is {self.anneal!r}; it must be True or False")
        if self.block_length is not None and not self.remasker.in_blocks:
            raise BadInput(
                f"the remasker {label_of(self.remasker, REMASKERS)!r} is for whole sequences, and a finished block is never "
                "remasked: use the remasker 'none' in blocks, or one that works within the open block, such as 'p2'"
            )
        object.__setattr__(self, "cache", checked_part("cache", _made(self.cache, CACHES), "cache"))
        check_cache(self.cache, self.refresh, self.block_length)
        if self.cache is not none and (self.reads_attention or self._look_ahead):
            raise BadInput(
                "a cached pass shows no attention, and a look-ahead is not cached: use cache='none' with dapd and info_gain"
            )
        _ = self.count_rule  # which refuses rules that do not work in blocks

    # ---- text ---------------------------------------------------------------------------------------------------------

    @classmethod
    @checked("text")
    def parse(cls, text: str, **fields: Any) -> "Sampler":
        """A sampler from `ORDER[~SIGMA][+REMASKER][@blocks:LENGTH][@cache:CACHE][@refresh:WHEN][@COUNT]`, the spelling of the
        command line.

        Args:
            text: such as `confidence`, `policy+undo`, `confidence@threshold:0.99`, `margin@blocks:32`, `policy~0.1`,
                `margin@blocks:32@cache:dual@refresh:8`. ORDER may be the folder of a policy, `X~SIGMA` perturbs the
                probabilities of X (see `Perturbed`), and every part takes its arguments as `NAME:VALUE` (see `Registry.make`).
            fields: further fields of the sampler. `count` is the rule to use if the text names none.

        Raises:
            BadInput: text of another form, or an unknown name.
        """
        parts = text.split("@")
        starts = {"@".join(parts[:n]): n for n in range(len(parts), 0, -1)}  # a folder's name may hold @ and +
        folder = next((n for start, n in starts.items() if holds_part(start)), 0)
        path = next((n for start, n in starts.items() if os.path.exists(start)), 0)
        cuts = {folder: None} if folder else {0: None, path: None}  # a path that holds no part is meant where no text is
        for cut in cuts:
            where, rules = "@".join(parts[: cut or 1]), parts[cut or 1 :]
            order, plus, remasker = (where, "", "") if cut else where.partition("+")
            try:
                return cls(as_order(order), **{**fields, **({"remasker": remasker} if plus else {}), **fields_of(rules)})
            except BadInput as error:
                wrong = error
        raise BadInput(f"sampler {text!r}: {wrong}") from wrong

    def __str__(self) -> str:
        """The spelling that `parse` reads; parts that have none are shown by the name of their function or class."""
        text = order_text(self.order)
        if self.remasker != Absorbing():
            text += f"+{label_of(self.remasker, REMASKERS)}"
        if self.block_length is not None:
            text += f"@blocks:{self.block_length}"
        if self.cache is not none:
            text += f"@cache:{label_of(self.cache, CACHES)}"
        if self.refresh != "block":
            text += f"@refresh:{self.refresh}"
        rule = self.count.function if isinstance(self.count, FunctionRule) else self.count
        return text if rule == self.remasker.usual_count else f"{text}@{label_of(rule, COUNT_RULES)}"

    # ---- parts --------------------------------------------------------------------------------------------------------

    @cached_property
    def memories(self) -> tuple[Memory, ...]:
        """What the parts remember of earlier predictions."""
        return memories_of(self.order, self.count_rule, self.token, self.remasker)

    @cached_property
    def reads_attention(self) -> bool:
        """Whether a part reads the denoiser's attention."""
        return any(getattr(inside, "reads_attention", False) for name in _PARTS for inside in walk(getattr(self, name)))

    @cached_property
    def _look_ahead(self) -> tuple[Any, ...]:
        """The parts of the order that call the denoiser themselves."""
        return tuple(part for part in walk(self.order) if hasattr(part, "passes"))

    def passes(self, state: DecodeState) -> Tensor | int:
        """Forward passes of the denoiser in this step: 1, and those of an order that looks ahead, int64 (B,)."""
        count: Tensor | int = 1
        for part in self._look_ahead:
            count = count + part.passes(state)
        return count

    @cached_property
    def token_rule(self) -> TokenRule:
        """The token rule in use: `token`, or one that draws the tokens of sequences that the remasker opened again."""
        if self.token != Argmax() or not self.remasker.temperature:
            return self.token
        return Redraw(again=Sample(self.remasker.temperature))

    def noise_scale(self, state: DecodeState) -> Tensor | float:
        """Scale of the Gumbel noise in this step: one number, or (B, 1) if it is annealed, or if the remasker asks for more in
        sequences that it opened again."""
        if self.remasker.noise <= self.noise and not self.anneal:
            return self.noise
        scale = torch.full_like(state.remasked, self.noise, dtype=torch.float32)
        if self.anneal:
            scale = scale * (1 - (state.step + 1) / state.steps).clamp(min=0.0)
        return torch.where(state.remasked > 0, scale.clamp(min=self.remasker.noise), scale)[:, None]

    @cached_property
    def count_rule(self) -> CountRule:
        """The count rule in use: `count`, or its form for blocks."""
        return self.count if self.block_length is None else self.count.in_blocks(self.block_length)

    def start_cache(self, denoiser: Any) -> Cache | None:
        """An empty cache for a batch; None if the sampler has none.

        Raises:
            BadInput: the denoiser cannot be cached.
        """
        if self.cache is none or self.block_length is None:
            return None
        return Cache(denoiser, self.cache, self.refresh, self.block_length)

    def replace(self, **changes: Any) -> "Sampler":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def bind(self, denoiser: Any, *, strict: bool = True) -> "Sampler":
        """The sampler with every part that depends on the denoiser loaded, such as the order `policy`, and policies that were
        loaded without a denoiser checked against this one. With a block-causal denoiser it decodes in that one's blocks.

        Raises:
            BadInput: the denoiser has no policy of its own, one without a critic, or blocks that the sampler does not work in.
            WrongDenoiser: a policy was fitted to another denoiser, and `strict`.
        """
        if (length := block_length_of(denoiser)) is not None:
            if self.block_length is None:
                return self.replace(block_length=length).bind(denoiser, strict=strict)
            check_fits_denoiser(self.block_length, length)
        inside = [part for name in _PARTS for part in walk(getattr(self, name))]
        for part in inside:
            check_unchecked(part, denoiser, strict=strict)
        if not any(isinstance(part, Unbound) for part in inside):
            return self
        changed: dict[str, Any] = {}
        binding = Binding(denoiser, strict)
        for name in _PARTS:
            part = rebuild(getattr(self, name), lambda p: p.bind(binding) if isinstance(p, Unbound) else p)  # noqa: B023
            if part is not getattr(self, name):
                changed[name] = part
            if name == "order":
                binding = dataclasses.replace(binding, order=part)
        if "remasker" in changed and self.count == self.remasker.usual_count:
            changed["count"] = None  # that of the bound remasker
        return self.replace(**changed)

    def to(self, device: torch.device | str) -> "Sampler":
        """Move the networks of all parts."""
        for part in (inside for name in _PARTS for inside in walk(getattr(self, name))):
            for network in networks_of(part):
                network.to(device)
        return self

    # ---- saving -------------------------------------------------------------------------------------------------------

    @checked("folder")
    def save_pretrained(self, folder: str | Path) -> None:
        """Write `sampler.json`, a card, and the weights of policies and critics in folders beside them.

        A policy that is named by its folder is saved with its weights too; `policy` alone stays a name: it stands for the own
        order of whatever denoiser the sampler is used with.

        Raises:
            BadInput: a part that cannot be found again by name, such as a lambda, a named folder without a policy, or a folder
                with a card or a model of another kind.
        """
        others = ("README.md", "config.json", "model.safetensors")
        found = [name for name in others if (Path(folder) / name).exists()]
        if found and not (Path(folder) / "sampler.json").exists():
            raise BadInput(f"{folder} holds {found[-1]}, which is not that of a sampler: choose another folder")
        networks: list[PolicyNetwork] = []

        def weights(part: Any) -> dict[str, Any] | None:
            if isinstance(part, SavedOrder) and part.folder:
                part = LearnedOrder.from_pretrained(part.folder)
            if not isinstance(part, LearnedOrder | Critic):
                return None
            if part.policy not in networks:
                networks.append(part.policy)
            kind = "critic" if isinstance(part, Critic) else "order"
            values = {"weights": f"policy-{networks.index(part.policy)}", "as": kind}
            critic = part.critic if isinstance(part, LearnedOrder) else None
            return values if critic is None else {**values, "critic": weights(critic)}

        values: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        values |= {name: to_config(getattr(self, name), weights, kind) for name, kind in _PARTS.items()}
        values |= {name: getattr(self, name) for name in _NUMBERS}
        with written_as_a_whole(folder) as place:
            for number, network in enumerate(networks):
                network.save_pretrained(place / f"policy-{number}")
            write_json(place / "sampler.json", values)
            shown = {"token rule": label_of(self.token, TOKEN_RULES)} | {name: getattr(self, name) for name in _NUMBERS}
            write_text(place / "README.md", card_of(str(self), shown))

    @classmethod
    @checked("name")
    def from_pretrained(cls, name: str | Path, denoiser: Any = None, *, strict: bool = True, **options: Any) -> "Sampler":
        """Load a sampler from a folder or a hub id.

        Args:
            name: folder or hub id.
            denoiser: the model that it will be used with; policies are checked against it and moved to its device. Without
                one, `decode` does both.
            strict: a policy of another denoiser is an error; otherwise a warning.
            options: of the download: revision, token, cache_dir, ...

        Raises:
            BadInput: no sampler there, a damaged one, or one with a part that is not installed here.
            WrongDenoiser: a policy was fitted to another denoiser, and `strict`.
        """
        folder = download(name, **options)
        path = folder / "sampler.json"
        if not path.is_file():
            policy = (folder / "config.json").is_file()
            instead = "load a policy with load_order" if policy else "save one with Sampler.save_pretrained"
            raise BadInput(f"{folder} holds no sampler (no sampler.json): {instead}")
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BadInput(f"{path} is not a sampler: its format is not {FORMAT!r}")
        if values.get("version") != VERSION:
            raise BadInput(f"{path} has version {values.get('version')!r} of the format; this anyorder reads version {VERSION}")
        loaded: dict[str, PolicyNetwork] = {}

        def weights(entry: Mapping[str, Any]) -> Any:
            part = str(entry.get("weights"))
            if not re.fullmatch(r"policy-\d+", part) or entry.get("as") not in ("order", "critic"):
                raise BadInput(f"{path} is damaged: {json.dumps(dict(entry))[:80]} is not a part of a sampler")
            if part not in loaded:
                loaded[part] = load_policy(folder / part)
                check_or_note(loaded[part], denoiser, folder / part, strict=strict)
                loaded[part].to(device_of(denoiser))
            network = loaded[part]
            if entry["as"] == "critic":
                return Critic(network)
            return LearnedOrder(network, weights(entry["critic"]) if entry.get("critic") else None)

        try:
            parts = {key: from_config(values[key], weights) for key in _PARTS if key not in _LATER or key in values}
            return cls(**parts, **{key: values[key] for key in _NUMBERS if key not in _LATER or key in values})
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is damaged: {type(error).__name__} {error}") from error


def as_sampler(sampler: Any, **fields: Any) -> Sampler:
    """A sampler by its spelling or its folder, or with an order of one's own; a sampler is returned as it is.

    Args:
        sampler: a spelling such as `policy+undo@threshold:0.9`, the folder of a sampler or of a policy, an order, a policy
            network, or a sampler.
        fields: further fields of a sampler that is made here; saved and complete ones keep theirs.

    Raises:
        BadInput: none of these.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if isinstance(sampler, str | Path) and saved_sampler(sampler):
        return Sampler.from_pretrained(sampler)
    return Sampler.parse(sampler, **fields) if isinstance(sampler, str) else Sampler(sampler, **fields)


def saved_sampler(name: str | Path) -> bool:
    """Whether a name is that of a saved sampler's folder."""
    return name not in ORDERS and os.path.isfile(Path(name) / "sampler.json")


def _made(part: Any, registry: Any) -> Any:
    return registry.make(part) if isinstance(part, str) else part
