"""A job that says how many threads its process has once TensorFlow computes."""

import os
from collections.abc import Callable
from typing import Any

from experiments.jobs.messages import Job
from seg.start import import_tensorflow, start_tensorflow
from seg.training.result import EpochReport


def prepare() -> None:
    import_tensorflow()


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    start_tensorflow()
    import tensorflow as tf

    tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    return {"threads": len(os.listdir("/proc/self/task"))}
