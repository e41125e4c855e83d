"""What stands between the network and MLflow's scoring server: bounded bodies, and errors of one line."""

import json
import logging
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LONGEST_MESSAGE = 500  # characters; MLflow's errors can hold all that was sent
_logger = logging.getLogger(__name__)


class Guard:
    """ASGI middleware that reads a request's body before the application is called, and simplifies its errors.

    Every error becomes `{"error_code": …, "message": …}` with one line of text: MLflow's own hold stack traces, which
    tell a stranger about this machine. They go to the log instead.

    Args:
        app: the application.
        max_body: bytes that a request's body may have; a longer one is refused with 413 as soon as that is known,
            from its header or, where there is none or it is wrong, from what arrived.
    """

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"content-type" not in headers:
            # What RFC 9110 lets a server assume; MLflow's fails without any.
            scope = {**scope, "headers": [*scope["headers"], (b"content-type", b"application/octet-stream")]}
        body = await self._read(receive, int(headers.get(b"content-length", 0)))
        if body is None:
            message = f"a body must have at most {self._max_body} bytes; send fewer or smaller images."
            refusal = JSONResponse(
                _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message), 413, headers={"Connection": "close"}
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), _PlainErrors(scope, receive, send))

    async def _read(self, receive: Receive, declared: int) -> bytes | None:
        """The body; None if it is too long. Of a client that has gone, what came."""
        if declared > self._max_body:
            return None
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max_body:
                return None
            more = message.get("more_body", False)
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body at once, and then whatever comes: that the client has gone."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


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
