"""What stands between the network and the model: bounded bodies, bounded work, and errors of one line."""

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LONGEST_MESSAGE = 500  # characters; MLflow's errors can hold all that was sent
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """What requests may cost together.

    Attributes:
        max_body: bytes that one body may have.
        held: bytes that all bodies together may have, arriving or waiting for the model.
        at_once: requests that the model works on; one alone keeps all cores busy.
        waiting: requests whose bodies are there and whose turn is not.
        seconds_to_send: until a body has to be there.
        seconds_to_wait: until a request that waits has to have its turn.
    """

    max_body: int
    held: int
    at_once: int = 1
    waiting: int = 32
    seconds_to_send: float = 60
    seconds_to_wait: float = 60


class Guard:
    """ASGI middleware: reads a request's body, waits for the model, calls the application, and simplifies its errors.

    A request has its turn until the application is done with it, also where its client has its answer (a timeout, say)
    or has gone: threads cannot be ended, and what is left of them must not pile up. A client that goes earlier never
    reaches the application. An answer is sent when the turn is over: who reads it slowly keeps nobody waiting.

    Every error becomes `{"error_code": …, "message": …}` with one line of text: MLflow's own hold stack traces, which
    tell a stranger about this machine. They go to the log instead.

    Args:
        app: the application.
        limits: beyond which requests are refused: 413 for a body that is too long (as soon as that is known, from its
            header or from what arrived), 408 for one that does not arrive in time, 503 for more than there is room for.
    """

    def __init__(self, app: ASGIApp, limits: GuardLimits) -> None:
        self._app = app
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.at_once)
        self._waiting = 0
        self._held = 0
        self._working: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] != "POST":  # whether it is alive is answered at once, and reads no body
            await self._app(scope, receive, _PlainErrors(scope, receive, send))
        else:
            try:
                body = _Body(self)
                with contextlib.closing(body):
                    await self._post(scope, receive, send, body)
            except _Refused as refused:
                answer = JSONResponse(_error(refused.status, refused.message), refused.status, refused.headers)
                await answer(scope, receive, send)
            except _Gone:
                pass

    async def _post(self, scope: Scope, receive: Receive, send: Send, body: "_Body") -> None:
        declared = int(dict(scope["headers"]).get(b"content-length", 0))
        try:
            async with asyncio.timeout(self._limits.seconds_to_send):
                await body.read(receive, declared)
        except TimeoutError:
            raise _Refused(
                HTTPStatus.REQUEST_TIMEOUT,
                f"a body must arrive within {self._limits.seconds_to_send:g} seconds; send fewer or smaller images.",
            ) from None
        await self._take_turn()
        # Nothing is awaited between the turn and the task that gives it back.
        answered: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
        working = asyncio.create_task(self._work(scope, receive, body.take(), answered))
        self._working.add(working)  # else nobody holds it, and it may be collected
        working.add_done_callback(self._working.discard)
        plain = _PlainErrors(scope, receive, send)
        for message in await answered:
            await plain(message)

    async def _take_turn(self) -> None:
        if self._turns.locked() and self._waiting >= self._limits.waiting:
            raise _busy("there are too many requests already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.seconds_to_wait):
                await self._turns.acquire()
        except TimeoutError:
            raise _busy("the requests before this one took too long") from None
        finally:
            self._waiting -= 1

    async def _work(
        self, scope: Scope, receive: Receive, body: bytes, answered: "asyncio.Future[list[Message]]"
    ) -> None:
        """Calls the application and keeps the turn until it is done; what it answers is known before, perhaps."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if whole and not answered.done():  # done where the server ends and waits for nobody
                answered.set_result(messages)

        try:
            if await _has_gone(receive):
                raise _Gone
            await self._app(scope, _whole(body), collect)
            if not answered.done():
                raise RuntimeError("no answer")
        except Exception as error:
            if answered.done():
                _logger.exception("after its answer, a request failed")
            else:
                answered.set_exception(error)
        finally:
            self._turns.release()

    def hold(self, count: int) -> None:
        """Counts bytes that are kept, or with a negative number are kept no more."""
        if count > 0 and self._held + count > self._limits.held:
            raise _busy("there are too many bodies already")
        self._held += count

    @property
    def max_body(self) -> int:
        """Bytes."""
        return self._limits.max_body


class _Gone(Exception):
    """The client has closed its connection."""


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.message = message
        # What is still on its way is not read.
        self.headers = {"Connection": "close"} | (headers or {})


def _busy(why: str) -> _Refused:
    return _Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{why}; send this one again later.", {"Retry-After": "5"})


class _Body:
    """A request's body, which is counted while it is kept."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._kept = bytearray()

    async def read(self, receive: Receive, declared: int) -> None:
        """Reads all of it.

        Raises:
            _Refused: if it is too long.
            _Gone: if the client goes before its end: half a body must not be taken for a whole one.
        """
        self._check(declared)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            self._check(len(self._kept) + len(part))
            self._guard.hold(len(part))
            self._kept += part
            more = message.get("more_body", False)

    def take(self) -> bytes:
        """The body; it is kept no longer."""
        taken = bytes(self._kept)
        self.close()
        return taken

    def close(self) -> None:
        """Forgets it."""
        self._guard.hold(-len(self._kept))
        self._kept = bytearray()

    def _check(self, length: int) -> None:
        if length > self._guard.max_body:
            message = f"a body must have at most {self._guard.max_body} bytes; send fewer or smaller images."
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


async def _has_gone(receive: Receive) -> bool:
    """Whether a client whose whole body was read has gone: nothing else can come of it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            return (await receive())["type"] == "http.disconnect"
    return False


def _whole(body: bytes) -> Receive:
    """A `receive` that gives the whole body at once, and then that there is no more."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    return received


class _PlainErrors:
    """A `send` that holds back an answer with an error until it is whole, and sends a plain one in its place."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._status = 0
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._status = message["status"]
        elif not self._status:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                answer = JSONResponse(plain_error(self._status, bytes(self._body)), self._status)
                await answer(self._scope, self._receive, self._send)


def plain_error(status: int, body: bytes) -> dict[str, str]:
    """One line of what MLflow's server (`message`, `stack_trace`) or FastAPI (`detail`) says of an error."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = body.decode("utf-8", "replace")
    if not isinstance(answer, dict):
        return _error(HTTPStatus(status), str(answer))
    if "stack_trace" in answer:
        _logger.error("%s", answer["stack_trace"])
    detail = answer.get("detail")
    if isinstance(detail, list):  # one entry for each parameter that is wrong
        detail = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in detail)
    return _error(HTTPStatus(status), str(answer.get("message") or detail))


def _error(status: HTTPStatus, message: str) -> dict[str, str]:
    # Before "Error: " on a line of its own, MLflow repeats the data.
    said = message.rpartition("\nError: ")[2].strip().partition("\n")[0]
    return {"error_code": status.name, "message": said[:_LONGEST_MESSAGE]}
