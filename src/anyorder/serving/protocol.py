"""The requests and answers of OpenAI's interface, with fields of our own, and its form of errors."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anyorder.errors import AnyorderError, shorten
from anyorder.serving.choice import Event

LARGEST_SEED = 2**62
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "echo": (False,), "frequency_penalty": (0,), "logit_bias": ({},), "logprobs": (False,),
    "parallel_tool_calls": (True, False), "presence_penalty": (0,), "response_format": ({"type": "text"},), "store": (False,),
    "service_tier": ("auto", "default"), "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,),
}  # fmt: skip
"""Fields of OpenAI that are not supported, with the values at which they change nothing."""
_IGNORED = ("metadata", "user")
_FORMS = {
    "prompt": "give a text, a list of texts, the tokens of a text, or a list of them",
    "stop": "give a text of 1 to 256 characters, or up to 4 of them",
    "messages": 'give at least one {"role": "user", "content": "..."}; only text is read',
}


class Refused(AnyorderError):
    """A request that cannot be answered.

    Args:
        message: what was wrong, and what would be right.
        status: of HTTP.
        param: the field that is wrong.
        code: a name of the error, for programs.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def error_body(error: Refused) -> dict[str, Any]:
    """The error in OpenAI's form."""
    kinds = {404: "invalid_request_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


class StreamOptions(BaseModel):
    """include_usage: end with an event that counts tokens."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Request(BaseModel):
    """What completions and chats have in common.

    Those of OpenAI: model, n, seed, stop, stream, stream_options, temperature (0 by default: the likeliest token), top_p.
    Those of anyorder: order, steps, threshold, block_length and top_k, as in `anyorder.generate`; drafts, whether events of a
    stream show the whole draft.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
    model: str | None = None
    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=0, lt=LARGEST_SEED)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(0.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=2**31)
    order: str | None = Field(None, max_length=200)
    steps: int | None = Field(None, ge=1, le=2**31)
    threshold: float | None = Field(None, ge=0, le=1)
    block_length: int | None = Field(None, ge=1, le=2**31)
    drafts: bool = True

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Request):
    """Go on with a text. prompt: one or several, as text or as tokens; suffix: what stands behind the generated text."""

    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=1)

    @property
    def prompts(self) -> list[Any]:
        """The prompts, each a text or a list of tokens."""
        several = isinstance(self.prompt, list) and (not self.prompt or not isinstance(self.prompt[0], int))
        return list(self.prompt) if several else [self.prompt]


class Part(BaseModel):
    """A part of a message; only text is known."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Annotated[str, Field(pattern="^text$")]
    text: str


class Message(BaseModel):
    """What was said."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: str = Field(max_length=32)
    content: str | list[Part]

    @property
    def turn(self) -> dict[str, str]:
        """Role and text."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(Request):
    """Answer a conversation."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        self.max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self


def read_request(kind: type[Request], values: Any) -> Any:
    """A request from JSON.

    Raises:
        Refused: something that is missing, unknown, unsupported or out of range.
    """
    if not isinstance(values, Mapping):
        raise Refused("the body must be a JSON object")
    known = {key: value for key, value in values.items() if value is not None and key not in _IGNORED}
    for key, neutral in _NEUTRAL.items():
        if key in known and known.pop(key) not in neutral:
            raise Refused(f"{key} is not supported: leave it out", param=key, code="unsupported_parameter")
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = shorten(str(next(iter(first["loc"]), "")), 80)
        said = f": {_FORMS[where]}" if where in _FORMS else f" {_said(first)}"
        raise Refused(f"{where or 'the body'}{said}", param=where or None) from error


def _said(error: Mapping[str, Any]) -> str:
    """What is wrong with a field, behind its name."""
    known = {"extra_forbidden": "is no field of this request: leave it out", "missing": "is missing"}
    return known.get(error["type"]) or str(error["msg"]).replace("Input should be", "must be")


class Answer:
    """The events of a request as the objects of OpenAI's interface.

    Args:
        number: of the request, unique.
        model: its name.
        created: seconds since 1970.
        chat: a chat rather than a completion.
        prompt_tokens: of all prompts.
        seeds: of each choice.
    """

    def __init__(self, number: str, model: str, created: int, *, chat: bool, prompt_tokens: int, seeds: Sequence[int]) -> None:
        self.chat, self.seeds, self.prompt_tokens = chat, list(seeds), prompt_tokens
        self._head = {"id": ("chatcmpl-" if chat else "cmpl-") + number, "created": created, "model": model}
        self._tokens = [0] * len(seeds)
        self._begun: set[int] = set()

    def chunk(self, index: int, event: Event, drafts: bool) -> dict[str, Any]:
        """An event of choice `index` as an event of a stream."""
        self._tokens[index] = event.tokens
        choice: dict[str, Any] = {"index": index, "finish_reason": event.finish, "logprobs": None}
        if self.chat:
            role = {} if index in self._begun else {"role": "assistant"}
            choice["delta"] = {**role, "content": event.text}
        else:
            choice["text"] = event.text
        self._begun.add(index)
        own: dict[str, Any] = {"step": event.step, "seed": self.seeds[index]}
        if drafts:
            own |= {"draft": event.draft, "committed": event.committed, "remasked": event.remasked}
        return {**self._head, "object": self._object(True), "choices": [choice], "anyorder": own}

    def usage_chunk(self) -> dict[str, Any]:
        """The event that counts tokens."""
        return {**self._head, "object": self._object(True), "choices": [], "usage": self._usage()}

    def whole(self, events: Sequence[Event]) -> dict[str, Any]:
        """The answer of a request without a stream, from the last event of each choice."""
        self._tokens = [event.tokens for event in events]
        choices = []
        for index, event in enumerate(events):
            said = {"message": {"role": "assistant", "content": event.text}} if self.chat else {"text": event.text}
            choices.append({"index": index, **said, "finish_reason": event.finish, "logprobs": None})
        own = {"seeds": self.seeds, "steps": [event.step for event in events]}
        return {**self._head, "object": self._object(False), "choices": choices, "usage": self._usage(), "anyorder": own}

    def _object(self, streamed: bool) -> str:
        if self.chat:
            return "chat.completion.chunk" if streamed else "chat.completion"
        return "text_completion"

    def _usage(self) -> dict[str, int]:
        generated = sum(self._tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        }
