"""One training as a run of its own, beside any study: from the run's start to its published result."""

from pathlib import Path
from typing import Any

from experiments.command_line.progress import Progress
from experiments.executors.base import Executor
from experiments.jobs.messages import Job
from experiments.jobs.one_job import run_job
from experiments.tracking.run_report import publish_epoch, publish_training
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.training.result import EpochReport


def run_folder(workspace: str, run_id: str) -> Path:
    """Where a run that is no trial leaves its files."""
    return Path(workspace).absolute() / "runs" / run_id


def train_in_run(
    run_id: str,
    config: TrainConfig,
    manifest: Manifest,
    folder: Path,
    tracker: Tracker,
    executor: Executor,
    last_epoch: int | None = None,
) -> dict[str, Any]:
    """Trains, tells a person, and records everything in a run, which stays open.

    Args:
        run_id: of the run.
        config, manifest: what to train on what.
        folder: where the files are left.
        tracker, executor: where it is recorded and runs.
        last_epoch: after which training is told to stop; None: when it ends by itself.

    Returns:
        The fields of the TrainResult.

    Raises:
        UserError: if the task found that the request was wrong.
        JobFailed: if it failed otherwise.
    """
    tracker.watch_system(run_id)
    progress = Progress()
    progress.study(trials=1, finished=0, base=config, best=None)
    progress.trial_started(0, config)
    arguments = {"config": config.as_dict(), "dataset": str(manifest.folder.absolute())}
    job = Job(name="training", task="train", folder=str(folder), arguments=arguments)

    def on_epoch(report: EpochReport) -> None:
        publish_epoch(tracker, run_id, folder, report)
        progress.epoch(0, report)

    try:
        result = run_job(executor, job, on_epoch, last_epoch)
    finally:
        progress.close()
    publish_training(tracker, run_id, folder, result)
    return result
