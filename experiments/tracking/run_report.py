"""What the run of one training shows when it is over, be it a trial of a study or a run of its own."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jobs.messages import epoch_picture
from seg.training.result import EpochReport, ModelCost

if TYPE_CHECKING:  # it imports MLflow, which a study does not need
    from experiments.tracking.tracker import Tracker


def cost_metrics(cost: ModelCost) -> dict[str, float]:
    """The metrics of a cost under the names of docs/protocol.md."""
    metrics = asdict(cost)
    # The bare name is each epoch's.
    return metrics | {"training_images_per_second": metrics.pop("images_per_second")}


def publish_epoch(tracker: "Tracker", run_id: str, folder: Path, report: EpochReport) -> None:
    """Logs an epoch's measurements, and its picture where there is one."""
    tracker.log_epoch(run_id, report)
    picture = epoch_picture(folder, report.epoch)
    if picture.is_file():
        tracker.log_image(run_id, picture, "validation", step=report.epoch)


def publish_training(tracker: "Tracker", run_id: str, folder: Path, result: Mapping[str, Any]) -> None:
    """Adds the best epoch and everything that the job left in its folder.

    Args:
        folder: of the job.
        result: what the job returned (`experiments.jobs.tasks`).
    """
    # First: the numbers, the tags and those of the run's end, which follow, are then told as one.
    tracker.log_folder(run_id, folder)
    best = {"best_val_dice": result["val_dice"], "best_epoch": result["best_epoch"]}
    tracker.log_metrics(run_id, best | cost_metrics(ModelCost(**result["cost"])))
    used = {"effective_batch_size": result["batch_size"], "replicas": result["replicas"]}
    tracker.log_tags(run_id, used | {"stop_reason": result["stop_reason"]})
