"""`fit`: one training run, from a configuration and a dataset to the best model in a file."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import training_dataset
from seg.errors import UserError
from seg.losses import get_loss, mean_over_outputs, validation_loss
from seg.models import build_training_model, final_model
from seg.models.blocks import logit_channels
from seg.models.precision import AUTO, with_chosen_precision
from seg.training.averaging import WeightAverage
from seg.training.building import build_before_fit
from seg.training.checkpoint import Checkpoints, kept_precision
from seg.training.devices import effective_batch_size
from seg.training.fused import with_fused_normalization
from seg.training.optimizer import make_optimizer
from seg.training.result import EpochReport, TrainResult
from seg.training.validation import Validation

MODEL = "model.keras"


class TrainingDiverged(Exception):
    """The loss is no number any more: further training is of no use."""


def fit(
    config: TrainConfig,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    folder: Path,
    on_epoch: Callable[[EpochReport], bool] = lambda report: True,
    checkpoints: Path | None = None,
    on_best: Callable[[keras.Model, int], None] = lambda model, epoch: None,
) -> TrainResult:
    """Trains a model and leaves the weights of its best epoch, by `val_dice`, in `folder / MODEL`.

    With `checkpoints`, a call that was interrupted goes on after its last whole epoch, and ends with the weights,
    scores and history of one that was not, bit for bit on the same CPU.

    Args:
        config: what to train and how.
        manifest: the dataset; it has the splits `train` and `val`.
        strategy: the devices, from `make_strategy(config.devices)`.
        folder: where the model is written.
        on_epoch: called after each epoch, when its model is saved; training stops if it returns False. A call that
            goes on calls it for the epochs before, too.
        checkpoints: folder for what it takes to go on; `folder` must then be the one of the interrupted call. None:
            nothing is kept.
        on_best: called with the model and the epoch whenever an epoch is the best so far; the weights stay those of
            that epoch until the next call.

    Raises:
        UserError: if configuration and dataset do not fit together, or a checkpoint cannot be written or is of
            another training.
        TrainingDiverged: if a loss is NaN or infinite; the model of the best epoch before stays.
    """
    _check(config, manifest)
    config = with_settled_precision(config, checkpoints)
    replicas = strategy.num_replicas_in_sync
    batch_size = effective_batch_size(config.batch_size, replicas)
    keras.utils.set_random_seed(config.seed)
    steps = manifest.splits["train"].examples // batch_size
    with strategy.scope():
        plain, model = compiled_model(config, steps, len(manifest.classes))
    final = final_model(model)
    validation = Validation(final, validation_loss(config.loss), manifest, "val", batch_size, strategy)
    kept = None if checkpoints is None else Checkpoints(checkpoints, _identity(config, manifest, replicas))
    average = WeightAverage(model, config, manifest, batch_size, strategy) if config.ema else None
    course = _Course(config.patience, batch_size, plain, validation, average, folder / MODEL, on_epoch, on_best, kept)
    course.set_model(model)  # `Model.fit` does so too, and too late for what is replayed
    if kept is not None:
        with strategy.scope():
            course.replay(kept.restore(model))
    done = len(course.history)
    if done < config.epochs and not course.stopped:
        model.fit(
            training_dataset(manifest, config, batch_size, first_epoch=done + 1),
            initial_epoch=done,
            epochs=config.epochs,
            steps_per_epoch=steps,
            callbacks=[course],
            shuffle=False,  # the dataset has its own order
            verbose=0,
        )
    if course.error is not None:
        raise course.error
    if course.divergence:
        raise TrainingDiverged(f"{course.divergence}; use a learning_rate lower than {config.learning_rate:g}.")
    return TrainResult(
        stop_reason=course.stop_reason,
        best_epoch=course.best.epoch,
        val_dice=course.best.val_dice,
        parameters=final.count_params(),
        replicas=replicas,
        batch_size=batch_size,
        model=MODEL,
        history=tuple(course.history),
    )


def with_settled_precision(config: TrainConfig, checkpoints: Path | None) -> TrainConfig:
    """The configuration with a number format in place of `auto`: that of the checkpoint from which training goes on.

    Where there is no checkpoint, it is what `auto` means here; another machine may have begun.
    """
    if config.precision == AUTO and checkpoints is not None and (kept := kept_precision(checkpoints)) is not None:
        return replace(config, precision=kept)
    return with_chosen_precision(config)


def compiled_model(config: TrainConfig, steps: int, classes: int) -> tuple[keras.Model, keras.Model]:
    """The model as it is saved, and as it trains, with weights in the same order; call it within the strategy's scope.

    Args:
        config: what to build.
        steps: per epoch.
        classes: of the dataset, background not counted.
    """
    plain = build_training_model(config, classes)
    model = with_fused_normalization(plain)
    # Keras turns XLA on by itself; it is slower on a CPU and breaks on two replicas.
    loss = mean_over_outputs(get_loss(config.loss), logit_channels(classes))
    model.compile(optimizer=make_optimizer(config, steps), loss=loss, jit_compile=False)
    build_before_fit(model, config.image_size)
    return plain, model


class _Course(keras.callbacks.Callback):
    """What happens at the end of each epoch: validate, keep the best, report, decide whether to go on.

    It never raises what it decides: an exception would leave `Model.fit` without its `on_train_end`.

    Attributes:
        history: the epochs' reports.
        best: the report of the saved model's epoch.
        stop_reason: as in `TrainResult`.
        stopped: whether it decided to end before the last epoch.
        divergence: what was not finite, and when; empty while all is well.
        error: that a checkpoint could not be written; None while all is well.
    """

    def __init__(
        self,
        patience: int,
        batch_size: int,
        plain: keras.Model,
        validation: Validation,
        average: WeightAverage | None,
        path: Path,
        on_epoch: Callable[[EpochReport], bool],
        on_best: Callable[[keras.Model, int], None],
        checkpoints: Checkpoints | None,
    ) -> None:
        super().__init__()
        self.history: list[EpochReport] = []
        self.stop_reason = "epochs"
        self.stopped = False
        self.divergence = ""
        self.error: UserError | None = None
        self._patience = patience
        self._batch_size = batch_size
        self._plain = plain
        self._saved = final_model(plain)
        self._validation = validation
        self._average = average
        self._path = path
        self._on_epoch = on_epoch
        self._on_best = on_best
        self._checkpoints = checkpoints
        self._traced = False

    def replay(self, history: Sequence[EpochReport]) -> None:
        """Decides once more on the epochs of an interrupted call: its last decision may not have been heard.

        The model has the variables that it had after the last of them.
        """
        for report in history:
            self.history.append(report)
            if report is history[-1] and self.best is report:
                with self._averaged(report.epoch):
                    self._plain.set_weights(self.model.get_weights())
                self._keep(report)  # the checkpoint is written first, and the model may not have been
            self._decide(report)

    @property
    def best(self) -> EpochReport:
        return max(self.history, key=lambda report: report.val_dice)  # the first of equals

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch_start = self._steps_start = time.perf_counter()
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1
        if not self._traced and batch == 0 and self.params["steps"] > 1:
            # The very first step traces the model: it says nothing about the speed of training.
            self._traced = True
            self._steps_start = time.perf_counter()
            self._steps = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        train_loss = float(logs["loss"])
        images_per_second = self._steps * self._batch_size / (time.perf_counter() - self._steps_start)
        with self._averaged(epoch + 1):
            report = self._validate(epoch, train_loss, images_per_second)
        if report is None:
            self.model.stop_training = True
            return
        if self._checkpoints is not None:
            try:
                self._checkpoints.save(self.model, self.history)
            except UserError as error:
                self.error = error
                self.model.stop_training = True
                return
        if self.best is report:
            self._keep(report)
        self._decide(report)
        if self.stopped:
            self.model.stop_training = True

    def _averaged(self, epoch: int) -> AbstractContextManager[None]:
        """The model is within as it is validated and saved."""
        return self._average.applied(epoch) if self._average else nullcontext()

    def _validate(self, epoch: int, train_loss: float, images_per_second: float) -> EpochReport | None:
        """Scores the model as it is now and holds its weights if it is the best; None if training has diverged."""
        score = self._validation()
        for name, loss in (("train_loss", train_loss), ("val_loss", score.loss)):
            if not math.isfinite(loss):
                self.divergence = f"training diverged: {name} is {loss} in epoch {epoch + 1}"
                return None
        report = EpochReport(
            epoch=epoch + 1,
            train_loss=train_loss,
            val_loss=score.loss,
            val_dice=score.dice,
            images_per_second=images_per_second,
            seconds=time.perf_counter() - self._epoch_start,
        )
        self.history.append(report)
        if self.best is report:
            self._plain.set_weights(self.model.get_weights())
        return report

    def _keep(self, report: EpochReport) -> None:
        _save(self._saved, self._path)
        self._on_best(self._saved, report.epoch)

    def _decide(self, report: EpochReport) -> None:
        if not self._on_epoch(report):
            self.stop_reason = "pruned"
        elif self._patience and report.epoch - self.best.epoch >= self._patience:
            self.stop_reason = "early_stopping"
        else:
            return
        self.stopped = True


def _identity(config: TrainConfig, manifest: Manifest, replicas: int) -> dict[str, Any]:
    """What decides the weights of every epoch."""
    return {"config": config.as_dict(), "dataset_key": manifest.key, "replicas": replicas}


def _save(model: keras.Model, path: Path) -> None:
    """Writes the model, which has neither loss nor optimizer, beside its place first: it loads without our code."""
    partial = path.with_name(f".partial.{path.name}")
    model.save(partial)
    partial.replace(path)


def _check(config: TrainConfig, manifest: Manifest) -> None:
    if manifest.image_size != config.image_size:
        raise UserError(
            f"the dataset {manifest.folder} was converted at image_size {manifest.image_size}, got "
            f"{config.image_size}; use image_size {manifest.image_size} or convert again."
        )
    for split in ("train", "val"):
        if split not in manifest.splits or not manifest.splits[split].examples:
            raise UserError(f"training needs images in the {split} split, and {manifest.folder} has none; add some.")
