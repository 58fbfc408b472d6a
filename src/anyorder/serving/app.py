"""The web application: OpenAI's routes, a stream as server-sent events, and the page at `/`."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any, TypeVar

from anyorder.errors import AnyorderError, BadInput, NotFinite, first_line
from anyorder.files import parse_json
from anyorder.serving.choice import Event
from anyorder.serving.engine import Busy, Closed
from anyorder.serving.protocol import Answer, ChatRequest, CompletionRequest, Refused, error_body, read_request
from anyorder.serving.service import Limits, Service

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise BadInput("anyorder serve needs: pip install 'anyorder[serve]'") from error

T = TypeVar("T")


class _Gone(Exception):
    """The client has closed its connection."""


def make_app(service: Service) -> Starlette:
    """The ASGI application of a service, whose engine is closed when the application shuts down."""

    async def models(_: Request) -> Response:
        own = {"orders": list(service.samplers), "default_order": service.default, "max_model_len": service.texts.room}
        model = {"id": service.name, "object": "model", "created": began, "owned_by": "anyorder", "anyorder": own}
        return JSONResponse({"object": "list", "data": [model]})

    async def completions(request: Request) -> Any:
        return await _answer(service, request, CompletionRequest)

    async def chat(request: Request) -> Any:
        return await _answer(service, request, ChatRequest)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", **service.engine.load})

    async def page(_: Request) -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close)

    began = int(time.time())
    text = resources.files("anyorder.serving").joinpath("page.html").read_text(encoding="utf-8")
    routes = [
        Route("/", page), Route("/health", health), Route("/v1/models", models),
        Route("/v1/completions", completions, methods=["POST"]), Route("/v1/chat/completions", chat, methods=["POST"]),
    ]  # fmt: skip
    handlers: Any = {HTTPException: _refused_by_starlette, Exception: _failed}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


_POLICY = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


async def _refused_by_starlette(_: Request, error: Exception) -> Response:
    """Unknown addresses and methods, in OpenAI's form of errors."""
    assert isinstance(error, HTTPException)
    hint = "the routes are /v1/models, /v1/completions, /v1/chat/completions"
    return _refusal(Refused(f"{error.detail}: {hint}", error.status_code))


async def _failed(_: Request, __: Exception) -> Response:
    """An error of ours; uvicorn logs its traceback."""
    return _refusal(Refused("a mistake in anyorder: see the log of the server", 500))


def _refusal(error: Refused) -> Response:
    return JSONResponse(error_body(error), status_code=error.status)


def _as_refusal(error: Exception) -> Refused:
    """What an error says to a client."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        return Refused(str(error), 429, code="queue_full")
    if isinstance(error, Closed):
        return Refused(str(error), 503, code="shutting_down")
    if isinstance(error, TimeoutError):
        return Refused("the answer took too long: ask for fewer tokens or steps", 504, code="timeout")
    if isinstance(error, BadInput) and not isinstance(error, NotFinite):
        return Refused(str(error))
    return Refused(f"decoding failed: {type(error).__name__}", 500)


async def _answer(service: Service, request: Request, kind: type[CompletionRequest] | type[ChatRequest]) -> Any:
    """Answer a completion or a chat."""
    try:
        asked = read_request(kind, await _body(request, service.limits))
        running = Running(service, asked)
    except (AnyorderError, TimeoutError) as error:
        return _refusal(_as_refusal(error))
    if asked.stream:
        return EventStream(running)
    try:
        return JSONResponse(await _while_connected(running.whole(), request.receive))
    except _Gone:
        return Response(status_code=499)
    except Exception as error:
        return _refusal(_as_refusal(error))
    finally:
        running.cancel()


async def _body(request: Request, limits: Limits) -> Any:
    """The JSON of a request.

    Raises:
        Refused: it is too large, too slow, or no JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("the content type must be application/json", 415)
    data = bytearray()
    try:
        async with asyncio.timeout(limits.read_timeout):
            async for piece in request.stream():
                data += piece
                if len(data) > limits.max_body:
                    raise Refused(f"the body has more than {limits.max_body} bytes", 413, code="body_too_large")
    except TimeoutError as error:
        raise Refused(f"the body did not arrive within {limits.read_timeout:g} seconds", 408, code="timeout") from error
    try:
        return parse_json(bytes(data))
    except ValueError as error:
        raise Refused(f"the body is not JSON: {first_line(error)}") from error


class Running:
    """A request that is being answered. Whoever makes one cancels it in the end.

    Raises:
        AnyorderError: it cannot be answered.
    """

    def __init__(self, service: Service, asked: CompletionRequest | ChatRequest) -> None:
        self.asked, self._engine = asked, service.engine
        self._events: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._choices, prompt_tokens = service.choices(asked, self._emit)
        self._answer = Answer(
            secrets.token_hex(12), service.name, int(time.time()), chat=isinstance(asked, ChatRequest),
            prompt_tokens=prompt_tokens, seeds=[choice.seed for choice in self._choices],
        )  # fmt: skip
        self._until = self._loop.time() + service.limits.timeout
        self._engine.submit(self._choices)

    def cancel(self) -> None:
        """Free the rows that are still decoded."""
        self._engine.cancel(self._choices)

    def _emit(self, number: int, event: Event | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody reads
            self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """What happens, until all choices have ended.

        Raises:
            TimeoutError: it took too long. Exception: decoding failed.
        """
        left = len(self._choices)
        while left:
            async with asyncio.timeout_at(self._until):
                number, event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield number, event
            left -= event.finish is not None

    async def whole(self) -> dict[str, Any]:
        """The complete answer."""
        last = {number: event async for number, event in self.events()}
        return self._answer.whole([last[number] for number in sorted(last)])

    async def stream(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            async for number, event in self.events():
                if self.asked.drafts or event.text or event.finish:
                    yield _sent(self._answer.chunk(number, event, self.asked.drafts))
            if self.asked.stream_options is not None and self.asked.stream_options.include_usage:
                yield _sent(self._answer.usage_chunk())
        except Exception as error:
            yield _sent(error_body(_as_refusal(error)))
        yield "data: [DONE]\n\n"


def _sent(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


class EventStream:
    """A response of server-sent events, which ends at once when the client leaves."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with suppress(_Gone, OSError):
            try:
                await _while_connected(self._write(send), receive)
            finally:
                self._running.cancel()

    async def _write(self, send: Send) -> None:
        kind = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        async for text in self._running.stream():
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of some work, which is given up when the client leaves.

    Raises:
        _Gone: it has left.
    """

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(leave())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _Gone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
