"""What a process of `doctor` does: measures a step of training with one number of replicas. Talks to nobody else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.jobs.messages import Job
from seg.start import start_tensorflow
from seg.training.result import EpochReport


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    """Does a job of the task `replicas`; its arguments are `devices`, and `replicas` of the process that has more.

    Returns:
        what `seg.training.replicas.measure` returns.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # two processes meet on the first GPU
    start_tensorflow()
    from seg.training.devices import make_strategy
    from seg.training.replicas import measure, write_probe

    strategy = make_strategy(job.arguments["devices"])
    replicas = int(job.arguments["replicas"])
    return measure(write_probe(Path(job.folder) / "dataset", replicas), strategy, replicas)
