"""The real tasks, in a process that is refused what it asks for beyond 64 GiB, on any machine."""

import resource
from collections.abc import Callable
from typing import Any

from experiments.jobs import tasks
from experiments.jobs.messages import Job
from seg.training.result import EpochReport

LIMIT = 64 * 2**30  # bytes of addresses, of which TensorFlow's libraries take some


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    return tasks.run(job, report)
