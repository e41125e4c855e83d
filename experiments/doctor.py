"""Say whether this machine can run a study: versions, devices, disk, databases, and what its replicas compute.

    python -m experiments.doctor --storage sqlite:///optuna.db

Takes less than a minute. One line per check: ok, warning or failed, with what to do about it. The last one trains a
step on one device and on several (GPUs, or logical devices of the CPU) with every loss, and compares loss, gradient,
scores and numbers of images. Exits with code 3 if a check failed.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from experiments.checks.machine_checks import (
    Check,
    check_devices,
    check_storage,
    check_tracking,
    check_versions,
    check_workspace,
)
from experiments.checks.replica_check import ReplicaMeasurement, ReplicaProcesses
from experiments.command_line import entry
from experiments.command_line.options import OPTIONS, parser
from experiments.executors.gpus import visible_gpus
from seg.errors import UserError
from seg.page import write_whole
from seg.training.replica_differences import differences

OUTPUT = replace(OPTIONS["output"], default="", help="file that gets the checks as JSON, too; empty: none")


def build_parser() -> argparse.ArgumentParser:
    return parser("doctor", __doc__, ["storage", "workspace", "output"], output=OUTPUT)


def examine(
    storage: str, workspace: Path, tracking: str | None, tasks: str = "experiments.jobs.replica_tasks"
) -> Iterable[Check]:
    """The checks, one after the other; the replicas are measured meanwhile, and come last.

    Args:
        storage: URL of Optuna's storage.
        workspace: folder of datasets and trials.
        tracking: MLFLOW_TRACKING_URI; None: MLflow's default.
        tasks: the module that measures the replicas.
    """
    gpus = visible_gpus(os.environ)
    with tempfile.TemporaryDirectory() as folder, ReplicaProcesses(Path(folder), gpus, tasks) as processes:
        yield from check_versions()
        yield from check_workspace(workspace)
        yield from check_storage(storage)
        yield from check_tracking(tracking)
        measured = processes.result()
        yield from check_devices(gpus, None if measured.one is None else measured.one["gpus"])
        yield from check_replicas(measured)


def check_replicas(measured: ReplicaMeasurement) -> list[Check]:
    """Whether replicas compute what one device computes; a check for each way in which they do not."""
    if measured.one is None or measured.many is None:
        remedy = "repair what the checks above name; with no other cause, memory is short"
        return [Check(name="replicas", status="failed", found=why, remedy=remedy) for why in measured.reasons]
    faults = differences(measured.one, measured.many)
    if faults:
        remedy = "train with one GPU per slot until it is repaired: scores and steps would depend on the devices"
        return [Check(name="replicas", status="failed", found=fault, remedy=remedy) for fault in faults]
    losses = ", ".join(measured.many["losses"])
    found = f"{measured.devices} compute what one does: loss, gradient, scores and image counts of {losses}"
    return [Check(name="replicas", status="ok", found=found)]


def line(check: Check) -> str:
    """A check as a person reads it."""
    return f"{check.status:7}  {check.name:9}  {check.found}" + (f" -> {check.remedy}" if check.remedy else "")


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    checks = []
    for check in examine(values.storage, Path(values.workspace), launch.tracking_uri):
        print(line(check), flush=True)
        checks.append(check)
    if values.output:
        try:
            write_whole(Path(values.output), json.dumps([asdict(check) for check in checks], indent=1) + "\n")
        except OSError as error:
            raise UserError(f"output must be a file that can be written, got: {error}; choose another.") from None
    failed = sum(check.status == "failed" for check in checks)
    print(f"{failed} of {len(checks)} checks failed" if failed else "this machine can run studies")
    return entry.UNTRUSTWORTHY if failed else 0


if __name__ == "__main__":
    entry.run(main)
