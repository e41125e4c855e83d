"""What more devices give: replicas of one training, and trials side by side.

Replicas on a CPU are logical devices that share its cores.
"""

from benchmarks.harness import Case, Contender
from benchmarks.parts import study, training_step
from benchmarks.setting import Setting


def cases(setting: Setting) -> list[Case]:
    step = {
        "filters": 2 if setting.tiny else 16,
        "image_size": 32 if setting.tiny else 128,
        "precision": "float32",
        "steps": 2 if setting.tiny else 8,
        "workspace": str(setting.workspace),
    }
    replicas = tuple(
        Contender(
            f"{count} replica" + "s" * (count > 1), f"{training_step.__name__}:ours", step | {"devices": f"cpu:{count}"}
        )
        for count in (1, 2)
    )
    trials = 4 if setting.full else 2
    settings = {
        "trials": trials,
        "epochs": 2,
        "image_size": 32 if setting.tiny else 64,
        "data": str(setting.export),
        "workspace": str(setting.workspace),
    }
    slots = tuple(
        Contender(f"{count} slot" + "s" * (count > 1), f"{study.__name__}:ours", settings | {"slots": count})
        for count in (1, 2)
    )
    return [
        Case("scaling", "training step by replicas", "images/s", replicas, rounds=setting.rounds),
        Case("scaling", f"{trials} short trials by slots", "s", slots, False, setting.rounds if setting.full else 1),
    ]
