"""The guard with applications of a few lines, asked without a network; and connections of which nothing comes."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from experiments.serving import http_connections
from experiments.serving.http_connections import ImpatientProtocol
from experiments.serving.http_guard import Guard, GuardLimits

POST: Scope = {"type": "http", "method": "POST", "path": "/mask", "headers": []}
GET: Scope = POST | {"method": "GET", "path": "/ping"}


class Client:
    """A client that sends parts of a body, and then is silent or goes."""

    def __init__(self, *parts: bytes, whole: bool = True, goes: bool = False) -> None:
        self._parts: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if whole:
            self._parts[-1]["more_body"] = False
        self.gone = asyncio.Event()
        if goes:
            self.gone.set()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def receive(self) -> Message:
        if self._parts:
            return self._parts.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        self.body += message.get("body", b"")

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["message"])


class Slow:
    """An application that answers when it is told to, and knows what it was given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.at_once = 0
        self.go_on = asyncio.Event()
        self.end = asyncio.Event()
        self.end.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive())["body"])
        self.at_once += 1
        assert self.at_once == 1
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        await self.end.wait()  # as a thread that is still working when its client has its timeout
        self.at_once -= 1


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


def guard(app: Any, **changes: Any) -> Guard:
    return Guard(app, GuardLimits(**{"max_body": 10, "held": 100} | changes))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def ask(guarded: Guard, client: Client) -> Client:
    await guarded(POST, client.receive, client.send)
    return client


def test_a_body_in_parts() -> None:
    async def test() -> None:
        app = Slow()
        app.go_on.set()
        client = await ask(guard(app), Client(b"ab", b"", b"c"))
        assert (client.status, client.body, app.bodies) == (200, b"done", [b"abc"])

    run(test)


def test_half_a_body_never_reaches_the_application() -> None:
    async def test() -> None:
        app = Slow()
        app.go_on.set()
        client = await ask(guard(app), Client(b"half", whole=False, goes=True))
        assert (client.status, app.bodies) == (0, [])
        assert (await ask(guard(app), Client(b"whole"))).status == 200

    run(test)


def test_who_goes_while_waiting_never_reaches_it_either() -> None:
    async def test() -> None:
        app = Slow()
        guarded = guard(app)
        first, second, third = Client(b"1"), Client(b"2"), Client(b"3")
        tasks = [asyncio.create_task(ask(guarded, client)) for client in (first, second, third)]
        await settle()
        second.gone.set()
        app.go_on.set()
        await asyncio.gather(*tasks)
        assert app.bodies == [b"1", b"3"]
        assert (first.status, second.status, third.status) == (200, 0, 200)

    run(test)


def test_a_body_that_does_not_arrive() -> None:
    async def test() -> None:
        app = Slow()
        client = await ask(guard(app, seconds_to_send=0.05), Client(b"half", whole=False))
        assert (client.status, client.headers[b"connection"], app.bodies) == (408, b"close", [])
        assert client.error == "a body must arrive within 0.05 seconds; send fewer or smaller images."

    run(test)


def test_one_at_a_time_and_few_that_wait() -> None:
    async def test() -> None:
        app = Slow()
        guarded = guard(app, waiting=2)
        clients = [Client(str(number).encode()) for number in range(4)]
        tasks = [asyncio.create_task(ask(guarded, client)) for client in clients]
        await settle()
        assert (clients[3].status, clients[3].headers[b"retry-after"]) == (503, b"5")
        assert clients[3].error == "there are too many requests already; send this one again later."
        app.go_on.set()
        await asyncio.gather(*tasks)
        assert [client.status for client in clients] == [200, 200, 200, 503]
        assert app.bodies == [b"0", b"1", b"2"]

    run(test)


def test_an_alive_server_says_so_while_it_works() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "POST":
                await asyncio.Event().wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"alive"})

        guarded = guard(app)
        working = asyncio.create_task(ask(guarded, Client(b"1")))
        await settle()
        client = Client(b"")
        await guarded(GET, client.receive, client.send)
        assert client.body == b"alive"
        working.cancel()

    run(test)


def test_what_goes_on_behind_an_answer_keeps_its_turn() -> None:
    async def test() -> None:
        app = Slow()
        app.go_on.set()
        app.end.clear()
        guarded = guard(app, seconds_to_wait=0.05)
        assert (await ask(guarded, Client(b"1"))).status == 200
        refused = await ask(guarded, Client(b"2"))
        assert refused.status == 503
        assert refused.error == "the requests before this one took too long; send this one again later."
        app.end.set()
        await settle()
        assert (await ask(guarded, Client(b"3"))).status == 200

    run(test)


def test_who_reads_slowly_keeps_nobody_waiting() -> None:
    async def test() -> None:
        app = Slow()
        app.go_on.set()
        guarded = guard(app)
        slow = Client(b"1")

        async def never(message: Message) -> None:
            await asyncio.Event().wait()

        reading = asyncio.create_task(guarded(POST, slow.receive, never))  # type: ignore[arg-type]
        await settle()
        assert (await ask(guarded, Client(b"2"))).status == 200
        reading.cancel()

    run(test)


def test_all_bodies_together() -> None:
    async def test() -> None:
        app = Slow()
        guarded = guard(app, held=15)
        stalled = Client(b"1234567890"[:8], whole=False)
        waits = asyncio.create_task(ask(guarded, stalled))
        await settle()
        refused = await ask(guarded, Client(b"12345678"))
        assert (refused.status, refused.error) == (503, "there are too many bodies already; send this one again later.")
        stalled.gone.set()
        await waits
        app.go_on.set()
        assert (await ask(guarded, Client(b"12345678"))).status == 200
        assert guarded._held == 0

    run(test)


def test_too_long() -> None:
    async def test() -> None:
        app = Slow()
        client = await ask(guard(app), Client(b"12345678", b"901"))
        assert (client.status, app.bodies) == (413, [])
        assert client.error == "a body must have at most 10 bytes; send fewer or smaller images."

    run(test)


def test_an_application_that_fails_gives_its_turn_back() -> None:
    async def test() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ValueError("broken")

        guarded = guard(app)
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await ask(guarded, Client(b"1"))

    run(test)


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["none", "half", "one"])
def test_idle_connections_are_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "SECONDS", 0.3)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)  # longer than an idle connection may stay
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def test() -> None:
        config = uvicorn.Config(app, port=0, http=ImpatientProtocol, lifespan="off", log_level="critical", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await reader.read()  # until the server closes
        assert answer.endswith(b"ok") == sent.endswith(b"\r\n\r\n")
        writer.close()
        server.should_exit = True
        await serving

    run(test)
