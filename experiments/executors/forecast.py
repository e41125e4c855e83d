"""What a study will take, said before it starts: trials, slots, time and disk."""

import math

from experiments.command_line.progress import duration
from experiments.executors.slot_speed import Speed, describe
from experiments.executors.slots import Division
from seg.config import TrainConfig
from seg.data.manifest import Manifest

VALIDATION_COST = 1 / 3  # of an image, beside one of training: the forward pass, of three parts of like size
CHECKPOINTS = 2  # that a running trial keeps
MODEL_COPIES = 2  # in the trial's folder and in MLflow


def forecast(
    trials: int, left: int, division: Division, config: TrainConfig, manifest: Manifest, speed: Speed | None
) -> str:
    """One line, for the study's largest model and all epochs: pruning and early stopping make it less.

    Args:
        trials: of the whole study.
        left: of them that are to be trained yet, one at least; what waits with a checkpoint counts as a whole one.
        division: how many at a time.
        config: the study's largest model.
        manifest: the dataset.
        speed: as measured of this division; None: time and disk cannot be said.
    """
    plural = "" if trials == 1 else "s"
    counted = f"{trials} trial{plural} in all" if left == trials else f"{left} of {trials} trial{plural} left"
    line = f"forecast: {counted}, of up to {config.epochs} epochs, {describe(division)}"
    if speed is None:
        return f"{line}; slots=auto would measure how long that takes"
    seconds = forecast_seconds(left, config.epochs, manifest, speed)
    megabytes = math.ceil(forecast_bytes(left, speed) / 1e6)
    return f"{line}: {duration(seconds)} and {megabytes} MB of disk"


def forecast_seconds(trials: int, epochs: int, manifest: Manifest, speed: Speed) -> float:
    """Rounds of trials, each of a start and so many epochs of training and validation."""
    images = manifest.splits["train"].examples + VALIDATION_COST * manifest.splits["val"].examples
    epoch = images / (speed.images_per_second / speed.slots)
    return math.ceil(trials / speed.slots) * (speed.start_seconds + epochs * epoch)


def forecast_bytes(trials: int, speed: Speed) -> int:
    """The models of all trials, and the checkpoints of those that run."""
    running = min(trials, speed.slots)
    return trials * MODEL_COPIES * speed.model_bytes + running * CHECKPOINTS * speed.checkpoint_bytes
