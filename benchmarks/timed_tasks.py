"""`experiments.jobs.tasks` with a clock: the tasks that the benchmark's study gives to its executor.

Leaves `stages.json` in the job's folder: `began`, when the job's process had it, and the seconds of each stage since.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.jobs import tasks
from experiments.jobs.messages import Job
from seg.start import start_tensorflow
from seg.training.result import EpochReport

STAGES = "stages.json"
prepare = tasks.prepare


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    """Does a job as `experiments.jobs.tasks.run` does it."""
    started = time.time()
    start_tensorflow()
    loaded = time.time()
    epochs: list[float] = []
    reported = [loaded]

    def on_epoch(told: EpochReport) -> bool:
        epochs.append(told.seconds)
        go_on = report(told)
        reported.append(time.time())
        return go_on

    result = tasks.run(job, on_epoch)
    usual = min(epochs)
    stages = {
        "began": started,
        "devices": loaded - started,
        "tracing": reported[1] - loaded - usual,
        "epochs": usual + reported[-1] - reported[1],
        "evaluation": time.time() - reported[-1],
    }
    (Path(job.folder) / STAGES).write_text(json.dumps(stages), encoding="utf-8")
    return result
