"""A real `mlflow server` on this machine for a test, started as docs/how-to/server.md says."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server whose database and artifacts lie in `folder`."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "server.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"^```bash\n(.*?)\n```$", page, re.M)
    command = [sys.executable, "-m", *documented.replace("--port 5000", f"--port {port}").split()]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not _healthy(f"http://127.0.0.1:{port}"):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _healthy(uri: str) -> bool:
    try:
        return requests.get(f"{uri}/health", timeout=1).ok
    except requests.RequestException:
        return False
