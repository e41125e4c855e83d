"""A real `mlflow server` on this machine for a test, started as docs/how-to/server.md says."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests


@contextmanager
def mlflow_server(folder: Path, database: str = "sqlite:///server.db") -> Iterator[str]:
    """The address of a server whose artifacts, and database unless it is given, lie in `folder`."""
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "server.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"^```bash\n(mlflow server .*?)\n```$", page, re.M)
    port = free_port()
    words = documented.replace("--port 5000", f"--port {port}").replace("--backend-store-uri sqlite:///server.db", "")
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": database}
    with running_server(words.split(), environment, folder, port) as address:
        yield address


@contextmanager
def running_server(command: Sequence[str], environment: Mapping[str, str], folder: Path, port: int) -> Iterator[str]:
    """The address of `mlflow server …`, which this starts in a folder and ends; its output goes to `log` there."""
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 240  # seconds: every worker imports half of MLflow, on a machine that may be busy
        while not _healthy(address):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # its workers too


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


def _healthy(uri: str) -> bool:
    try:
        return requests.get(f"{uri}/health", timeout=1).ok
    except requests.RequestException:
        return False
