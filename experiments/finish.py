"""After a study: score its winner on the test split once, register it, and make it champion if it is better."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import datasets, registry
from experiments.executors.base import Executor
from experiments.jobs import Job, JobEnded
from experiments.progress import describe
from experiments.study_result import StudyResult
from experiments.tracking import Tracker
from seg.data.manifest import Manifest
from seg.errors import UserError

EVALUATION = "evaluation.json"


class JobFailed(Exception):
    """A job that the command cannot do without failed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `main` tells at the end.

    Attributes:
        trial: number of the best trial.
        arm: what distinguishes it, for people.
        scores: on the test split: name to `mean`, `low`, `high`.
        baselines: trivial scores on the same images.
        examples: images in the test split.
        version: of the registered model.
        is_champion: whether it has the alias now.
        tracking_uri: where MLflow keeps all of it, without a password.
    """

    trial: int
    arm: str
    scores: Mapping[str, Mapping[str, float]]
    baselines: Mapping[str, float]
    examples: int
    version: str
    is_champion: bool
    tracking_uri: str


def run_job(executor: Executor, job: Job) -> dict[str, Any]:
    """Runs one job to its end and returns its result.

    Raises:
        UserError: if the task found that the request was wrong.
        JobFailed: if it failed otherwise.
    """
    executor.submit(job)
    while True:
        for event in executor.wait(timeout=60):
            if isinstance(event, JobEnded):
                if event.state == "finished":
                    assert event.result is not None
                    return event.result
                if event.user_error:
                    raise UserError(event.reason.removeprefix("UserError: "))
                raise JobFailed(f"{job.name} failed: {event.reason} ({Path(job.folder) / 'log.txt'})")


def evaluate(
    executor: Executor, folder: Path, model: Path, manifest: Manifest, split: str, threshold: float | None
) -> dict[str, Any]:
    """Scores a model on a split; see `experiments.tasks`. `threshold` None: tuned on the validation split."""
    arguments = {
        "model": str(model.absolute()),
        "dataset": str(manifest.folder.absolute()),
        "split": split,
        "threshold": threshold,
    }
    return run_job(
        executor, Job(name="evaluation", task="evaluate", folder=str(folder.absolute()), arguments=arguments)
    )
