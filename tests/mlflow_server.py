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
from typing import Self

import requests


class ServerProcess:
    """`mlflow server …` in a folder, where its output goes to `log`; it may be killed and started again on its port."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, port: int) -> None:
        self.command = command
        self.environment = environment
        self.folder = folder
        self.port = port
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        with (self.folder / "log").open("w") as log:
            # With its workers in a group of its own, so that a kill takes all of it.
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                env=os.environ | self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 240  # seconds: every worker imports half of MLflow, on a machine that may be busy
        while not _healthy(self.uri):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        finally:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class MlflowServer(ServerProcess):
    """The server as documented; its artifacts, and its database unless it is given, lie in `folder`."""

    def __init__(self, folder: Path, database: str = "sqlite:///server.db") -> None:
        page = (Path(__file__).parent.parent / "docs" / "how-to" / "server.md").read_text(encoding="utf-8")
        (documented,) = re.findall(r"^```bash\n(mlflow server .*?)\n```$", page, re.M)
        port = free_port()
        command = documented.replace("--port 5000", f"--port {port}").replace(
            "--backend-store-uri sqlite:///server.db", ""
        )
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": database}
        super().__init__(command.split(), environment, folder, port)


@contextmanager
def mlflow_server(folder: Path, database: str = "sqlite:///server.db") -> Iterator[str]:
    """The address of a server whose artifacts, and database unless it is given, lie in `folder`."""
    with MlflowServer(folder, database) as server:
        yield server.uri


@contextmanager
def running_server(command: Sequence[str], environment: Mapping[str, str], folder: Path, port: int) -> Iterator[str]:
    """The address of `mlflow server …`, which this starts in a folder and ends; its output goes to `log` there."""
    with ServerProcess(command, environment, folder, port) as server:
        yield server.uri


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
