"""The connection to a Ray cluster: reached within seconds or refused in one line, and silent."""

import contextlib
import importlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.executors.slots import Machine
from seg.errors import UserError

_CONNECT_SECONDS = 10.0


def connect(address: str, packages: Sequence[str]) -> bool:
    """Connects this process to a cluster.

    Args:
        address: `auto`, which is RAY_ADDRESS or the cluster that runs on this machine, or HOST:PORT.
        packages: of this project, which the nodes get from here: all run the same code.

    Raises:
        UserError: if Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("executor=ray needs ray; pip install -e '.[ray]'.") from None
    _probe(address)
    modules = [str(Path(str(importlib.import_module(package).__file__)).parent) for package in packages]
    try:
        with _signals_kept():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"py_modules": modules, "excludes": ["__pycache__", "*.pyc"]},
            )
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        first_line = " ".join(str(error).split())[:300]
        raise UserError(
            f"ray_address must name a Ray cluster of which this machine is a node, got {address} ({first_line}); on "
            "this machine, run `ray start --address=HOST:PORT` with the Ray and Python of this environment."
        ) from error
    ray._private.worker._worker_logs_enabled = False  # log_to_driver leaves the last lines of a node that died
    return True


def disconnect() -> None:
    """Ends the connection; Ray then ends what this process has left on the nodes."""
    import ray

    with _signals_kept():
        ray.shutdown()


@contextlib.contextmanager
def connection(address: str) -> Iterator[None]:
    """A connection for asking what a cluster has; see `connect`."""
    connect(address, ())
    try:
        yield
    finally:
        disconnect()


def machines() -> list[Machine]:
    """The nodes that are alive, with all that they have."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(cpus=int(node.get("CPU", 0)), gpus=int(node.get("GPU", 0))) for node in alive]


def _probe(address: str) -> None:
    """Ray itself tries for minutes."""
    from ray._private.services import canonicalize_bootstrap_address

    if address != "auto" and not re.fullmatch(r"[\w.\-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
        raise UserError(f"ray_address must be auto or HOST:PORT, got '{address}'; Ray's own port is 6379.")
    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        found = None
    except ValueError:
        named = os.environ.get("RAY_ADDRESS", address)
        raise UserError(f"RAY_ADDRESS must be HOST:PORT, got '{named}'; run this on a node of the cluster.") from None
    if found is None:
        raise UserError(
            "ray_address=auto must find a Ray cluster on this machine, and none runs; run `ray start --head` here or "
            "`ray start --address=HOST:PORT` to join one."
        )
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"the Ray cluster at {found} must answer, got: {error}; check that it runs (`ray status`), or give another "
            "ray_address."
        ) from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
