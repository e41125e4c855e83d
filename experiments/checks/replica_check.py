"""Starts the two processes whose results show whether this machine's replicas compute what one device computes."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.executors.local import LocalExecutor
from experiments.jobs.messages import Job, JobEnded

LOGICAL = 4  # CPU devices where there are not two GPUs; they do not divide the seed's batch of 10
LIMIT = 600.0  # seconds after which a process hangs; a quiet machine needs 30


@dataclass(frozen=True, kw_only=True)
class ReplicaMeasurement:
    """What both processes found.

    Attributes:
        devices: what the replicas were, for people.
        one, many: as `seg.training.replicas.measure` has them; None where the process failed.
        reasons: why a process failed, a line each.
    """

    devices: str
    one: dict[str, Any] | None
    many: dict[str, Any] | None
    reasons: tuple[str, ...]


class ReplicaProcesses:
    """Both processes, side by side, from the start to `result`; a context manager that leaves none behind.

    Args:
        folder: for their dataset and logs.
        gpus: what this process sees; two or more of them are the replicas.
        tasks: the module that measures.
    """

    def __init__(self, folder: Path, gpus: list[str], tasks: str = "experiments.jobs.replica_tasks") -> None:
        self._gpus = len(gpus) > 1
        replicas = len(gpus) if self._gpus else LOGICAL
        self._devices = f"{replicas} GPUs" if self._gpus else f"{replicas} logical CPU devices"
        self._executor = LocalExecutor(2, gpus=(gpus[0], ",".join(gpus)) if self._gpus else (), tasks=tasks)
        self._deadline = time.monotonic() + LIMIT
        for name, devices in (("one", "cpu:1"), ("many", f"cpu:{replicas}")):
            arguments = {"devices": "auto" if self._gpus else devices, "replicas": replicas}
            self._executor.submit(Job(name=name, task="replicas", folder=str(folder / name), arguments=arguments))

    def __enter__(self) -> "ReplicaProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.close()

    def result(self) -> ReplicaMeasurement:
        """Waits for both."""
        found: dict[str, JobEnded] = {}
        while len(found) < 2 and (left := self._deadline - time.monotonic()) > 0:
            for event in self._executor.wait(left):
                if isinstance(event, JobEnded):
                    found[event.job.name] = event
        reasons = [
            f"the process with {'one device' if name == 'one' else self._devices} "
            + (f"failed: {found[name].reason}" if name in found else f"took longer than {LIMIT:.0f} s")
            for name in ("one", "many")
            if name not in found or found[name].result is None
        ]
        one, many = (found[name].result if name in found else None for name in ("one", "many"))
        return ReplicaMeasurement(devices=self._devices, one=one, many=many, reasons=tuple(reasons))
