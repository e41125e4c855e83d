"""How a machine, or the machines of a cluster, are divided among the trials that run at the same time."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.executors.gpus import visible_gpus
from seg.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine has for trials: CPU cores and GPUs."""

    cpus: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one trial gets: CPU cores and GPUs of one machine."""

    cpus: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Division:
    """So many trials at the same time, each with the same share."""

    slots: int
    share: Share


def here(environment: Mapping[str, str]) -> Machine:
    """This machine: the cores that the process may use and the GPUs that it sees."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpus=cores, gpus=len(visible_gpus(environment)))


def capacity(machines: Sequence[Machine], share: Share) -> int:
    """How many shares the machines have room for."""
    return sum(
        min(machine.cpus // share.cpus, machine.gpus // share.gpus if share.gpus else machine.cpus)
        for machine in machines
    )


def divide(machines: Sequence[Machine], slots: int, gpus_per_trial: int | None) -> Division:
    """The largest equal shares that leave room for so many trials.

    Args:
        machines: one at least.
        slots: trials at the same time; 0: as many as `gpus_per_trial` leaves room for.
        gpus_per_trial: GPUs of each; 0: none, even if there are some; None: as many as `slots` leaves to each.

    Returns:
        Where there are fewer cores than slots, each share is one core.

    Raises:
        UserError: if there are too few GPUs.
    """
    total = sum(machine.gpus for machine in machines)
    if gpus_per_trial is None:
        gpus = _largest(machines, slots, "gpus") if total else 0
        if total and not gpus:
            raise UserError(f"slots must be at most the number of GPUs, {total}, got {slots}; use {total}.")
    else:
        gpus = gpus_per_trial
        room = sum(machine.gpus // gpus for machine in machines) if gpus else slots
        slots = slots or room
        if room < max(1, slots):
            remedy = f"use slots {room}" if room else "use a smaller gpus_per_trial"
            raise UserError(
                f"{max(1, slots)} trials at a time with gpus_per_trial {gpus} need as many GPUs on one machine each, "
                f"and {total} GPUs on {len(machines)} machine(s) have room for {room}; {remedy}."
            )
    cpus = max(machine.cpus for machine in machines)
    while cpus > 1 and capacity(machines, Share(cpus=cpus, gpus=gpus)) < slots:
        cpus -= 1
    return Division(slots=slots, share=Share(cpus=max(1, cpus), gpus=gpus))


def _largest(machines: Sequence[Machine], slots: int, what: str) -> int:
    """The largest amount of which the machines hold so many; 0 if there is none."""
    amounts = [getattr(machine, what) for machine in machines]
    return next((each for each in range(max(amounts), 0, -1) if sum(a // each for a in amounts) >= slots), 0)


def candidates(machines: Sequence[Machine], gpus_per_trial: int | None, trials: int) -> list[Division]:
    """The divisions among which measuring decides, from few large shares to many small ones.

    With GPUs: one trial over all GPUs of a machine, and one trial per GPU. Else one trial per machine with all its
    cores, and twice as many, and so on, down to one core each. None has more slots than the study has trials, but one.
    """
    gpus = sum(machine.gpus for machine in machines)
    if gpus and gpus_per_trial is None:
        wanted = [sum(machine.gpus > 0 for machine in machines), gpus]
    else:
        cores = sum(machine.cpus for machine in machines)
        wanted = [len(machines)]
        while wanted[-1] * 2 <= cores:
            wanted.append(wanted[-1] * 2)
    sensible = sorted({slots for slots in wanted if slots <= trials} | {min(wanted[0], max(1, trials))})
    return list(dict.fromkeys(divide(machines, slots, gpus_per_trial) for slots in sensible))
