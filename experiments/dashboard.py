"""Opens optuna-dashboard on a study's storage: its trials, their curves, which settings matter.

    python -m experiments.dashboard --storage sqlite:///optuna.db

Needs the extra `dashboard`. Only this machine can reach it; it runs until Ctrl-C or SIGTERM.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from experiments.command_line import entry
from experiments.command_line.options import OPTIONS, parser
from experiments.storage.storage_connection import open_storage
from seg.errors import UserError

_HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a browser's open connection does not hold up the end


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing of each request."""


def build_parser() -> argparse.ArgumentParser:
    port = dataclasses.replace(OPTIONS["port"], default=8080)
    return parser("dashboard", __doc__, ["storage", "port"], port=port)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        raise UserError("dashboard needs optuna-dashboard; pip install -e '.[dashboard]'.") from None
    app = wsgi(open_storage(values.storage))
    try:
        server = make_server(_HOST, values.port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise UserError(f"port must be free, got {values.port} ({error.strerror}); give another --port.") from None
    with server:
        print(f"optuna-dashboard on http://{_HOST}:{server.server_port}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


if __name__ == "__main__":
    entry.run(main)
