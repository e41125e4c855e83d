"""Jobs that say how fast they train, without training: by how many there are (`speed 1 of 4`)."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.jobs.messages import Job
from seg.errors import UserError
from seg.training.result import EpochReport

READY = EpochReport(epoch=0, train_loss=0.0, val_loss=0.0, val_dice=0.0, images_per_second=0.0, seconds=0.0)


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    """`loss` of the configuration stands for a machine."""
    number, slots = int(job.name.split()[1]), int(job.name.split()[-1])
    kind = job.arguments["config"]["loss"]
    if kind == "bce_dice" and slots > 1:
        raise MemoryError("two do not fit")
    if kind == "dice" and slots == 1:
        raise UserError("the request was wrong.")
    time.sleep(0.3 * (number - 1))
    (Path(job.folder) / "ready").write_text(str(time.time()))
    report(READY)
    (Path(job.folder) / "begun").write_text(str(time.time()))
    (Path(job.folder) / "threads").write_text(os.environ.get("TF_NUM_INTRAOP_THREADS", "all"))
    each = {1: 10.0, 2: 7.0, 4: 3.6}[slots]  # in all 10, 14 and 14.4
    return {"images_per_second": each, "model_bytes": 100, "checkpoint_bytes": 300, "start_seconds": 0.3 * number}
