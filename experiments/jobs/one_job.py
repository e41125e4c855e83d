"""One job from its start to its end, for whatever is no trial of a study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.executors.base import Executor
from experiments.jobs.memory_shortage import with_remedy
from experiments.jobs.messages import Job, JobEnded
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.result import EpochReport


class JobFailed(Exception):
    """A job that the command cannot do without failed; the message says why and where its log is."""


def run_job(
    executor: Executor,
    job: Job,
    on_epoch: Callable[[EpochReport], None] | None = None,
    last_epoch: int | None = None,
) -> dict[str, Any]:
    """Runs a job and returns its result.

    Args:
        executor: where it runs.
        job: what to do.
        on_epoch: hears of each epoch of training.
        last_epoch: after which training is told to stop, as a pruned trial was; None: when it ends by itself.

    Raises:
        UserError: if the task found that the request was wrong.
        JobFailed: if it failed otherwise.
    """
    executor.submit(job)
    while True:
        for event in executor.wait(timeout=60):
            if isinstance(event, JobEnded):
                return _result(event)
            if on_epoch is not None:
                on_epoch(event.report)
            executor.answer(event.job, go_on=event.report.epoch != last_epoch)


def evaluate(
    executor: Executor,
    folder: Path,
    model: Path,
    manifest: Manifest,
    split: str,
    threshold: float | None,
    tta: str = "none",
    largest_component: str = "no",
    registered_threshold: float | None = None,
) -> dict[str, Any]:
    """Scores a model on a split; see `experiments.jobs.tasks`. `threshold` None: tuned on the validation split."""
    arguments = {
        "model": str(model.absolute()),
        "dataset": str(manifest.folder.absolute()),
        "split": split,
        "threshold": threshold,
        "tta": tta,
        "largest_component": largest_component,
        "registered_threshold": registered_threshold,
    }
    job = Job(name=f"evaluation on {split}", task="evaluate", folder=str(folder.absolute()), arguments=arguments)
    return run_job(executor, job)


def _result(ended: JobEnded) -> dict[str, Any]:
    if ended.state == "finished":
        assert ended.result is not None
        return ended.result
    if ended.user_error:
        raise UserError(ended.reason.removeprefix("UserError: "))
    reason = ended.reason
    if (config := ended.job.arguments.get("config")) is not None:  # it trains
        reason = with_remedy(reason, ended.traceback, config["batch_size"])
    failed = JobFailed(f"{ended.job.name} failed: {reason} ({Path(ended.job.folder) / 'log.txt'})")
    failed.add_note(ended.traceback)  # the process's own: it becomes part of the run's traceback.txt
    raise failed
