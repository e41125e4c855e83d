"""What more devices give: replicas of one training, and trials side by side.

Replicas on a CPU are logical devices that share its cores.
"""

from benchmarks.harness import Case, Contender
from benchmarks.parts import study, training_step
from benchmarks.setting import Setting


def cases(setting: Setting) -> list[Case]:
    step = training_step.step_settings(setting, filters=16, image_size=128, steps=8)
    replicas = tuple(
        Contender(
            f"{count} replica" + "s" * (count > 1), f"{training_step.__name__}:ours", step | {"devices": f"cpu:{count}"}
        )
        for count in (1, 2)
    )
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
