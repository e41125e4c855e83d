"""Serves a registered model over HTTP, with MLflow's own scoring server.

    python -m experiments.serve --model models:/seg-unet@champion
    curl --data-binary @image.jpg http://127.0.0.1:5001/mask -o mask.png

It runs in this process and environment until Ctrl-C or SIGTERM. An alias is looked up once, at the start.
"""

import argparse
import contextlib
import ipaddress
import socket
import sys
from collections.abc import Sequence

from experiments.command_line import entry
from experiments.command_line.options import parser
from experiments.registry.registry import ModelInfo, Registry
from experiments.tracking.tracker import Tracker
from seg.errors import UserError
from seg.start import start_tensorflow

_SECONDS_TO_END = 10  # for the requests that are being answered
_CONNECTIONS = 512  # beyond them, 503; a process may open 1024 files on most machines
_BODIES = 8  # of the largest that may lie in memory together


def build_parser() -> argparse.ArgumentParser:
    return parser("serve", __doc__, ["model", "host", "port", "max_upload"])


def listen(host: str, port: int) -> socket.socket:
    """Takes the port, so that nobody else can; until the model is loaded, clients wait in its queue.

    Raises:
        UserError: if it is taken, or `host` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # behind it, Python repeats the address
        raise UserError(
            f"host and port must be a free address of this machine, got {host} and {port} ({reason}); "
            "give another --port."
        ) from None
    # asyncio does this for the sockets it opens itself; without it, every answer waits 40 ms for the client's kernel.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn_if_open(host: str) -> None:
    """Says on stderr that others can reach the address, where they can."""
    if not is_loopback(host):
        print(
            f"warning: {host} can be reached from other machines, and there is no authentication: "
            "whoever reaches it may use the model.",
            file=sys.stderr,
            flush=True,
        )


def serve(model: ModelInfo, uri: str, listening: socket.socket, max_body: int) -> None:
    """Answers requests until SIGINT or SIGTERM.

    Args:
        model: the version to serve.
        uri: of the store that has it.
        listening: from `listen`.
        max_body: bytes that a request's body may have.
    """
    start_tensorflow()
    import uvicorn

    from experiments.serving.http_connections import ImpatientProtocol, PromptServer
    from experiments.serving.http_guard import Guard, GuardLimits
    from experiments.serving.scoring import build_app, load_served_model

    limits = GuardLimits(max_body=max_body, held=_BODIES * max_body)
    config = uvicorn.Config(
        Guard(build_app(load_served_model(model, uri)), limits),
        http=ImpatientProtocol,
        ws="none",
        log_level="warning",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {model.uri} on {address} (POST /mask and /invocations); Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # the signal that ended it, which uvicorn raises again
        PromptServer(config).run(sockets=[listening])


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    if values.max_upload <= 0:
        raise UserError(f"max_upload must be above 0, got {values.max_upload}; use 32.")
    launch = entry.read_launch()
    with listen(values.host, values.port) as listening:
        warn_if_open(values.host)
        tracker = Tracker(launch.tracking_uri, None)
        model = Registry(tracker.uri).find(values.model)
        serve(model, tracker.uri, listening, values.max_upload * 2**20)
    return 0


if __name__ == "__main__":
    entry.run(main)
