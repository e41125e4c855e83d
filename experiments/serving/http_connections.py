"""HTTP connections that end when nothing comes of them. Uvicorn's own wait for ever for a request's first byte, and its
end for those that it had accepted just before."""

import asyncio
from asyncio import TimerHandle, Transport
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 20  # without a request, or between its first byte and the end of its header


class ImpatientProtocol(H11Protocol):
    """Uvicorn's protocol, and a look every `SECONDS`: a connection that has no request, and had none at the last look
    either, is closed. A request whose header is there is the application's affair, however long its body takes."""

    _look: TimerHandle | None = None
    _seen: Any = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look = self.loop.call_later(SECONDS, self._look_again)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self._look = self.loop.call_later(SECONDS, self._look_again)


class PromptServer(uvicorn.Server):
    """Uvicorn's server. At its end that one closes the connections it knows; one whose socket is accepted and whose
    protocol is not yet made would hold it up for the whole of `timeout_graceful_shutdown`."""

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        told = set(self.server_state.connections)
        ending = asyncio.create_task(super().shutdown(sockets))
        try:
            while not ending.done():
                late = self.server_state.connections - told
                for connection in late:
                    connection.shutdown()
                told |= late
                await asyncio.wait([ending], timeout=0.1)
            await ending
        finally:
            ending.cancel()  # if this is
