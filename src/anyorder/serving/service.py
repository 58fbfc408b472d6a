"""From a request to rows of the engine: limits, prompts, samplers, seeds."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.counts import CountRule, Fixed, Linear, Threshold
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.errors import AnyorderError, counted
from anyorder.interfaces.arguments import check_budget, token_rule
from anyorder.registry import ORDERS
from anyorder.serving.choice import Choice, Event
from anyorder.serving.engine import Engine
from anyorder.serving.protocol import LARGEST_SEED, ChatRequest, CompletionRequest, Refused, Request
from anyorder.serving.texts import Framed, Texts


@dataclass(frozen=True)
class Limits:
    """What one request and all of them together may cost.

    Args:
        max_tokens: generated tokens of a choice.
        max_choices: choices of a request, over all its prompts.
        max_rows: choices that are decoded at once.
        max_queue: choices that may wait.
        max_body: bytes of a request.
        read_timeout: seconds until a request must have arrived.
        timeout: seconds until it must be answered.
        shutdown_timeout: seconds that a shutdown waits for requests that are being answered.
    """

    max_tokens: int = 1024
    max_choices: int = 16
    max_rows: int = 32
    max_queue: int = 256
    max_body: int = 2**20
    read_timeout: float = 10.0
    timeout: float = 300.0
    shutdown_timeout: float = 30.0


class Service:
    """A denoiser that answers requests.

    Args:
        denoiser: a model of text.
        name: what clients call it.
        orders: samplers that requests may name besides the registered orders, as `Sampler.parse` reads them; the first one is
            used where a request names none. By default the model's own policy, or else confidence.
        limits: see `Limits`.

    Raises:
        BadInput: no model of text, or a sampler that it cannot be used with.
    """

    def __init__(self, denoiser: Denoiser, name: str, orders: Iterable[str] = (), limits: Limits = Limits()) -> None:
        self.denoiser, self.name, self.limits = denoiser, name, limits
        self.texts = Texts(denoiser)
        own = {text: Sampler.parse(text).replace(steps=None).bind(denoiser) for text in orders}
        self.samplers = {**own, **_usable(denoiser)}
        usual = "policy" if "policy" in self.samplers else "confidence"
        self.default = next(iter(own), usual)
        for sampler in own.values():
            sampler.start_cache(denoiser)  # which refuses a denoiser that cannot be cached
        self.engine = Engine(
            denoiser, self.texts.pad_token_id, self.texts.ends, max_rows=limits.max_rows, max_queue=limits.max_queue
        )

    def choices(self, request: Request, emit: Callable[[int, Event | Exception], None]) -> tuple[list[Choice], int]:
        """The rows of a request, and the tokens of its prompts. Events come with the number of their choice.

        Raises:
            Refused, BadInput: a request that cannot be answered.
        """
        if request.model not in (None, self.name):
            said = f"the model {request.model!r} is not served here: this is {self.name!r}"
            raise Refused(said, 404, "model", "model_not_found")
        framed = self._framed(request)
        if len(framed) * request.n > self.limits.max_choices:
            said = f"{counted(len(framed), 'prompt')} with n {request.n}: more than {self.limits.max_choices} choices"
            raise Refused(said, param="n")
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        order = self.default if request.order is None else request.order
        sampler, unbounded = self._sampler(request, order), request.threshold is not None and request.steps is None
        key = (order, request.threshold, unbounded, request.block_length, request.temperature, request.top_p, request.top_k)
        made = []
        for number in range(len(framed) * request.n):
            prompt = framed[number // request.n]
            count = self._room(request, prompt)
            choice = Choice(
                self.texts, prompt, count, sampler, key, steps=request.steps, seed=(seed + number) % LARGEST_SEED,
                stop=request.stops, every_step=request.stream, emit=lambda event, number=number: emit(number, event),  # type: ignore[misc]
            )  # fmt: skip
            check_budget(self.denoiser, torch.tensor([choice.tokens]), None, request.steps, sampler.block_length)
            made.append(choice)
        return made, sum(len(prompt.before) + len(prompt.behind) for prompt in framed)

    def _framed(self, request: Request) -> list[Framed]:
        if isinstance(request, ChatRequest):
            return [self.texts.chat([message.turn for message in request.messages])]
        assert isinstance(request, CompletionRequest)
        if not request.prompts or len(request.prompts) > self.limits.max_choices:
            raise Refused(f"prompt: give 1 to {self.limits.max_choices} prompts", param="prompt")
        return [self._prompt(prompt, request.suffix or "") for prompt in request.prompts]

    def _prompt(self, prompt: Any, suffix: str) -> Framed:
        if isinstance(prompt, str):
            return self.texts.prompt(prompt, suffix)
        if suffix:
            raise Refused("a suffix goes with a prompt of text, not of tokens", param="suffix")
        return self.texts.tokens(prompt, self.denoiser.vocab_size)

    def _room(self, request: Any, prompt: Framed) -> int:
        """The tokens to generate."""
        used = len(prompt.before) + len(prompt.behind)
        room = self.limits.max_tokens if self.texts.room is None else self.texts.room - used
        asked = request.max_tokens or min(self.texts.usual_length, max(room, 1), self.limits.max_tokens)
        if asked > self.limits.max_tokens:
            raise Refused(f"max_tokens is {asked}; this server generates {self.limits.max_tokens} at most", param="max_tokens")
        if asked > room:
            raise Refused(
                f"the prompt has {used} tokens and {asked} are to be generated; the model takes {self.texts.room}",
                code="context_length_exceeded",
            )
        return asked

    def _sampler(self, request: Request, order: str) -> Sampler:
        if order not in self.samplers:
            raise Refused(f"order {order!r} is unknown; use one of {', '.join(self.samplers)}", param="order")
        changes: dict[str, Any] = {}
        if request.temperature or request.top_p < 1 or request.top_k:
            if not request.temperature:
                raise Refused("top_p and top_k have no meaning without a temperature above 0", param="temperature")
            changes["token"] = token_rule(request.temperature, request.top_p, request.top_k)
        if request.block_length is not None:
            changes["block_length"] = request.block_length
        if request.threshold is not None:
            schedule: CountRule = Fixed(1) if request.steps is None else Linear()
            changes["count"] = Deadline(Threshold(request.threshold), schedule)
        return self.samplers[order].replace(**changes).bind(self.denoiser) if changes else self.samplers[order]


def name_of(model: str) -> str:
    """What clients call a model: its name, or the last part of its folder or hub id."""
    return Path(model).name or model


def _usable(denoiser: Denoiser) -> dict[str, Sampler]:
    """The registered orders that this denoiser can be decoded with."""
    found = {}
    for entry in ORDERS.entries():
        if entry.facts.get("oracle"):
            continue
        try:
            found[entry.name] = Sampler.parse(entry.name).bind(denoiser)
        except AnyorderError:
            continue
    return found
