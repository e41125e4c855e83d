"""From the options `executor`, `slots` and `gpus_per_trial` to an executor, and a forecast of what it will do."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.command_line.options import AUTO
from experiments.executors.base import Executor
from experiments.executors.forecast import forecast
from experiments.executors.forking import Forks
from experiments.executors.gpus import gpu_groups, visible_gpus
from experiments.executors.local import LocalExecutor, local_forks
from experiments.executors.slot_speed import Speed, fastest, key_of, remember, remembered
from experiments.executors.slots import Division, Machine, candidates, divide, here
from experiments.storage.remaining import remaining
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError

OPTIONS = ("executor", "ray_address", "slots", "gpus_per_trial")


@contextlib.contextmanager
def open_executor(
    values: argparse.Namespace, arms: Sequence[TrainConfig], trials: int, manifest: Manifest
) -> Iterator[Executor]:
    """The executor that the options describe; says on stderr what the study will take.

    With slots=auto and nothing else that decides it, short jobs measure how many trials at a time are fastest, once per
    machine and configuration; not for a study that has all its trials.

    Args:
        values: the parsed options.
        arms: what the study trains.
        trials: that it shall have, over all commands.
        manifest: the dataset.

    Raises:
        UserError: if there are no such slots or GPUs, or no such cluster.
        JobFailed: if the speed cannot be measured.
    """
    check(values)
    machines = _machines(values)
    left = remaining(values.storage, values.study, trials)
    # Measuring and the study have executors of their own, for which what trials need is imported once.
    with contextlib.closing(local_forks()) as forks:
        if left and values.executor == "local":
            forks.ahead()
        division, speed = _division(values, arms, trials, manifest, machines, left, forks)
        if left:
            print(forecast(trials, left, division, _largest(arms), manifest, speed), file=sys.stderr)
        with _open(values, division, forks) as executor:
            yield executor


def _division(
    values: argparse.Namespace,
    arms: Sequence[TrainConfig],
    trials: int,
    manifest: Manifest,
    machines: Sequence[Machine],
    left: int,
    forks: Forks,
) -> tuple[Division, Speed | None]:
    """As the options say, or as measuring does; and what was measured of it, now or before."""
    per_trial = _gpus_per_trial(values)
    path = _place(values, machines, trials, _largest(arms), manifest)
    speed = remembered(path)
    if values.slots != AUTO:
        division = divide(machines, values.slots, per_trial)
    elif per_trial:
        division = divide(machines, 0, per_trial)
    else:
        if speed is None and left:
            divisions = candidates(machines, per_trial, trials)
            scratch = path.with_suffix("")
            speed = fastest(divisions, _largest(arms), manifest, lambda each: _open(values, each, forks), scratch)
            remember(path, speed)
        division = speed.division if speed is not None else divide(machines, 1, per_trial)
    return division, speed if speed is not None and speed.division == division else None


def _largest(arms: Sequence[TrainConfig]) -> TrainConfig:
    return max(arms, key=lambda arm: (arm.filters, arm.depth))


def check(values: argparse.Namespace) -> None:
    """Before anything is converted or trained.

    Raises:
        UserError: if a number of slots or GPUs is none.
    """
    if values.slots != AUTO and values.slots < 1:
        raise UserError(f"slots must be at least 1, or auto, got {values.slots}.")
    if values.gpus_per_trial != AUTO and values.gpus_per_trial < 0:
        raise UserError(f"gpus_per_trial must be at least 0, or auto, got {values.gpus_per_trial}.")


def _gpus_per_trial(values: argparse.Namespace) -> int | None:
    return None if values.gpus_per_trial == AUTO else int(values.gpus_per_trial)


def _machines(values: argparse.Namespace) -> list[Machine]:
    if values.executor == "local":
        return [here(os.environ)]
    from experiments.executors.ray_cluster import connection, machines

    with connection(values.ray_address):
        return machines()


def _place(
    values: argparse.Namespace, machines: Sequence[Machine], trials: int, config: TrainConfig, manifest: Manifest
) -> Path:
    """Where the measurement that these options ask for is remembered."""
    divisions = candidates(machines, _gpus_per_trial(values), trials)
    key = key_of(divisions, config, manifest, machines, visible_gpus(os.environ))
    return Path(values.workspace) / "speeds" / f"{key}.json"


def _open(values: argparse.Namespace, division: Division, forks: Forks) -> Executor:
    if values.executor == "ray":
        from experiments.executors.ray import RayExecutor

        # auto follows the nodes that come
        limit = 0 if values.slots == AUTO else division.slots
        return RayExecutor(values.ray_address, slots=limit, share=division.share)
    return _local_executor(division, _gpus_per_trial(values), forks)


def _local_executor(division: Division, gpus_per_trial: int | None, forks: Forks) -> LocalExecutor:
    """This machine, divided. One slot sees and uses all that this process may, unless `gpus_per_trial` says less."""
    slots = division.slots
    if slots == 1 and gpus_per_trial is None:
        return LocalExecutor(1, forks=forks)
    gpus = gpu_groups(visible_gpus(os.environ), slots, division.share.gpus)
    return LocalExecutor(slots, gpus=gpus, threads=division.share.cpus if slots > 1 else 0, forks=forks)
