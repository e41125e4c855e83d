"""A real `mlflow server` on this machine for a test, started as docs/how-to/server.md says."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests


class MlflowServer:
    """A server whose database and artifacts lie in `folder`; it may be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            self.port = reserved.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        page = (Path(__file__).parent.parent / "docs" / "how-to" / "server.md").read_text(encoding="utf-8")
        (documented,) = re.findall(r"^```bash\n(.*?)\n```$", page, re.M)
        command = [sys.executable, "-m", *documented.replace("--port 5000", f"--port {self.port}").split()]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("w") as log:
            # With its workers in a group of its own, so that a kill takes all of it.
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not _healthy(self.uri):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server whose database and artifacts lie in `folder`."""
    server = MlflowServer(folder)
    server.start()
    try:
        yield server.uri
    finally:
        server.stop()


def _healthy(uri: str) -> bool:
    try:
        return requests.get(f"{uri}/health", timeout=1).ok
    except requests.RequestException:
        return False
