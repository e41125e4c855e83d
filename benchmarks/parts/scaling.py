"""What more devices give: replicas of one training, and trials side by side.

Replicas on a CPU are logical devices that share its cores. On a machine with GPUs there is one on each.
"""

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Case, Contender
from benchmarks.parts import study, training_step
from benchmarks.setting import Setting
from experiments.executors.gpus import visible_gpus

COUNTS = (1, 2, 4, 8)  # replicas; on a CPU no more than two


def cases(setting: Setting) -> list[Case]:
    step = training_step.step_settings(setting, filters=16, image_size=128, steps=8)
    replicas = replica_contenders(step, visible_gpus(os.environ))
    trials = 4 if setting.full else 2 if setting.short else 1
    settings = study.trial_settings(setting, trials)
    slots = tuple(
        Contender(f"{count} slot" + "s" * (count > 1), f"{study.__name__}:ours", settings | {"slots": count})
        for count in (1, 2)
    )
    return [
        Case("scaling", "training step by replicas", "images/s", replicas, rounds=setting.rounds),
        Case(
            "scaling",
            f"short trials by slots, {trials} of them",
            "s",
            slots,
            False,
            setting.rounds if setting.full else 1,
        ),
    ]


def replica_contenders(step: dict[str, Any], gpus: Sequence[str]) -> tuple[Contender, ...]:
    """The training step on one device and on more: on so many GPUs as there are, else on logical CPU devices.

    Args:
        step: the settings of `training_step.ours`, with the batch of one replica: more replicas share it.
        gpus: their names for CUDA_VISIBLE_DEVICES.
    """
    counts = [count for count in COUNTS if count <= max(2, len(gpus))]
    on_gpus = len(gpus) > 1
    return tuple(
        Contender(
            f"{count} replica" + "s" * (count > 1),
            f"{training_step.__name__}:ours",
            step | {"devices": "auto" if on_gpus else f"cpu:{count}"},
            environment={"CUDA_VISIBLE_DEVICES": ",".join(gpus[:count])} if on_gpus else {},
        )
        for count in counts
    )
