"""What a job does, in a process of its own: train a model, or evaluate one. Talks to neither Optuna nor MLflow."""

import csv
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import psutil

from experiments.command_line.code_version import note_code
from experiments.jobs.environment import ENVIRONMENT, Environment
from experiments.jobs.messages import Job, epoch_picture
from experiments.jobs.split_predictions import SplitPredictions, predictions_file
from seg.config import TrainConfig
from seg.data.baselines import baselines
from seg.data.manifest import Manifest, is_foreground
from seg.errors import UserError
from seg.inference import SETTINGS
from seg.metrics import hard_dice
from seg.overlay import panel
from seg.start import import_tensorflow, start_tensorflow
from seg.training.image_score import ImageScore, by_group, by_size, score_names
from seg.training.result import EpochReport
from seg.training.thresholds import THRESHOLDS, best_threshold

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

FIXED, BEST, WORST = 4, 3, 3  # panels of each kind
RESULT = "result.json"
EVALUATION_FORMAT = 4  # raise it when evaluation.json gets other keys: results of another format are made anew
EVALUATION_BATCH = 16  # images at a time; scores do not depend on it


def prepare() -> None:
    """Imports all code that a job may need, and notes which it is, before there is a job; touches no device."""
    import_tensorflow()
    from experiments.jobs import figures  # noqa: F401
    from seg.training import evaluation, fit, speed, step_speed  # noqa: F401

    note_code()


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    """Does a job.

    Args:
        job: `train` takes the arguments `config` (the fields of a TrainConfig), `dataset` (a converted dataset's
            folder) and, to go on where an attempt before stopped, `checkpoints` (a folder). `evaluate` takes `model`
            (path of a `.keras` file), `dataset`, `split`, `tta`, `largest_component`, and `threshold`, or None to tune
            it on the validation split; it must then be `registered_threshold`, where that is given. `speed` takes
            `config`, `dataset` and `seconds`.
        report: hears of each epoch of training; training stops when it returns False.

    Returns:
        for `train`, the fields of the TrainResult and, as `cost`, those of the ModelCost; for `evaluate`, what
        docs/protocol.md says of evaluation.json; for `speed`, the fields of the StepSpeed and, as `start_seconds`, how
        long the process was at work before it measured. The first two leave files in the job's folder; see
        docs/architecture.md.
    """
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    start_tensorflow()
    if job.task == "train":
        return train(folder, report=report, **job.arguments)
    if job.task == "speed":
        return speed(report=report, **job.arguments)
    return evaluate(folder, **job.arguments)


def train(
    folder: Path,
    *,
    config: dict[str, Any],
    dataset: str,
    report: Callable[[EpochReport], bool],
    checkpoints: str | None = None,
) -> dict[str, Any]:
    """Trains one model.

    Leaves model.keras, model_summary.txt, history.csv, learning_curves.png, val_predictions.npz (`SplitPredictions`),
    panels, the panel of one image for each epoch that was the best so far (`epoch_picture`), environment.json
    (`Environment`), and what it returns as result.json. Of several classes, settings.json
    names them.
    """
    from experiments.jobs.figures import learning_curves
    from seg.training.devices import make_strategy
    from seg.training.fit import fit, with_settled_precision
    from seg.training.speed import measure_cost

    manifest = Manifest.load(Path(dataset))
    kept = Path(checkpoints) if checkpoints else None
    settings = with_settled_precision(TrainConfig(**config), kept)
    strategy = make_strategy(settings.devices)
    best = _BestEpochs(folder, manifest)
    result = fit(settings, manifest, strategy, folder, report, kept, best)

    if len(manifest.classes) > 1:  # `seg.load` reads it
        _write(folder / SETTINGS, json.dumps({"threshold": None, "classes": manifest.classes}))
    # What the file holds; one that an attempt before has written is read.
    model = best.model
    if model is None or best.epoch != result.best_epoch:
        model = _load(folder / result.model, strategy)
    lines: list[str] = []
    model.summary(line_length=110, print_fn=lambda line, line_break=False: lines.append(line))
    _write(folder / "model_summary.txt", "\n".join(lines) + "\n")
    _write_table(folder / "history.csv", [field.name for field in fields(EpochReport)], map(astuple, result.history))
    # Here and not in the driver, where it would be the larger part of what a trial costs.
    learning_curves(result.history).savefig(folder / "learning_curves.png")
    threshold = 0.5 if len(manifest.classes) == 1 else None
    _write_predictions(folder, model, manifest, "val", threshold, result.batch_size, strategy)
    _write(folder / ENVIRONMENT, Environment.here(strategy, settings.precision).as_json())
    cost = measure_cost(model, manifest.records("val")[0, ..., :3], result)
    content = asdict(result) | {"cost": asdict(cost)}
    _write(folder / RESULT, json.dumps(content, indent=1) + "\n")
    return content


def speed(
    *, config: dict[str, Any], dataset: str, seconds: float, report: Callable[[EpochReport], bool]
) -> dict[str, Any]:
    """Trains for some seconds; leaves nothing.

    Reports once, when it is ready: the answer starts the seconds, so that several jobs measure at the same time.
    """
    from seg.training.devices import make_strategy
    from seg.training.step_speed import measure_step_speed

    settings = TrainConfig(**config)
    strategy = make_strategy(settings.devices)
    started = 0.0

    def ready() -> None:
        nonlocal started
        started = process_age()
        report(EpochReport(epoch=0, train_loss=0.0, val_loss=0.0, val_dice=0.0, images_per_second=0.0, seconds=0.0))

    found = measure_step_speed(settings, Manifest.load(Path(dataset)), strategy, seconds, ready)
    return asdict(found) | {"start_seconds": started}


def process_age() -> float:
    """Seconds since this process was started or forked."""
    if sys.platform == "linux":  # where psutil counts from the second, cut off, in which the machine was started
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()


def evaluate(
    folder: Path,
    *,
    model: str,
    dataset: str,
    split: str,
    threshold: float | None,
    tta: str = "none",
    largest_component: str = "no",
    registered_threshold: float | None = None,
) -> dict[str, Any]:
    """Scores a model on a split; leaves evaluation.json, per_image.csv, SPLIT_predictions.npz and panels."""
    from seg.training import evaluation
    from seg.training.devices import effective_batch_size, make_strategy
    from seg.training.speed import measure_speed

    manifest = Manifest.load(Path(dataset))
    several = len(manifest.classes) > 1
    if several and threshold is not None:
        raise UserError(
            f"threshold must not be given for {len(manifest.classes)} classes, of which the one with the highest "
            f"probability wins, got {threshold}; leave it out."
        )
    tuned = threshold is None and not several
    for needed in (split, "val") if tuned else (split,):
        if needed not in manifest.splits or not manifest.splits[needed].examples:
            raise UserError(f"the evaluation needs images in the {needed} split, and {dataset} has none; add some.")
    strategy = make_strategy("auto")
    batch_size = effective_batch_size(EVALUATION_BATCH, strategy.num_replicas_in_sync)
    network = _load(Path(model), strategy)
    if network.input_shape[1] != manifest.image_size:
        raise UserError(
            f"{model} takes images of {network.input_shape[1]} pixels, and {dataset} was converted at image_size "
            f"{manifest.image_size}; convert the data at image_size {network.input_shape[1]}."
        )
    check_channels(network, manifest)
    curves: dict[str, Sequence[float]] = {}
    if tuned:
        curves["val"] = evaluation.threshold_curve(
            network, manifest, "val", batch_size, strategy, tta, largest_component
        )
        threshold = best_threshold(curves["val"])
        if registered_threshold not in (None, threshold):
            raise UserError(
                f"the threshold must stay {registered_threshold}, with which the model is registered, and validation "
                f"gives {threshold} here; use another model_name."
            )
    found = evaluation.evaluate(network, manifest, split, threshold, batch_size, strategy, tta, largest_component)

    curves[split] = found.threshold_curve
    result = {
        "format": EVALUATION_FORMAT,
        "split": split,
        "split_key": manifest.splits[split].key,
        "threshold": found.threshold,
        "tta": tta,
        "largest_component": largest_component,
        "classes": manifest.classes,
        "examples": found.examples,
        "empty": found.empty,
        "scores": {name: asdict(interval) for name, interval in found.scores.items()},
        "baselines": baselines(manifest, split),
        "threshold_curve": {} if several else {"thresholds": THRESHOLDS, **curves},
        "calibration": asdict(found.calibration),
        "by_size": [asdict(part) for part in by_size(found.images, manifest.image_size)],
        "by_group": [asdict(part) for part in by_group(found.images, manifest.image_size)],
        "speed": asdict(measure_speed(network, manifest.records(split)[:batch_size, ..., :3])),
    }
    columns = [field.name for field in fields(ImageScore) if field.name != "class_dice"]
    rows = ((*(getattr(image, name) for name in columns), *image.class_dice) for image in found.images)
    _write_table(folder / "per_image.csv", [*columns, *score_names(manifest.classes)], rows)
    _write_predictions(folder, network, manifest, split, threshold, batch_size, strategy, tta, largest_component)
    # Last, and renamed into place: whoever finds it finds the rest too.
    partial = folder / ".partial.evaluation.json"
    _write(partial, json.dumps(result, indent=1) + "\n")
    partial.replace(folder / "evaluation.json")
    return json.loads(json.dumps(result))  # what the file holds: lists, where here are tuples


def panel_images(masks: np.ndarray, scores: Sequence[float]) -> dict[str, int]:
    """Which images of a split to show: names of panels to positions in the records.

    Args:
        masks: `(images, size, size)`, the split's masks.
        scores: Dice of each image.

    Returns:
        `fixed_0` …: evenly spaced images with foreground, the same ones in every run on a dataset, so that models can
        be compared by eye; `best_0` … and `worst_0` …: by score. Fewer where the split holds fewer.
    """
    with_foreground = [index for index, mask in enumerate(masks) if is_foreground(mask).any()] or list(
        range(len(masks))
    )
    spaced = np.linspace(0, len(with_foreground) - 1, min(FIXED, len(with_foreground))).round().astype(int)
    chosen = {f"fixed_{number}": with_foreground[place] for number, place in enumerate(spaced)}
    order = np.argsort(scores, kind="stable")
    chosen |= {f"best_{number}": int(index) for number, index in enumerate(order[::-1][:BEST])}
    return chosen | {f"worst_{number}": int(index) for number, index in enumerate(order[:WORST])}


class _BestEpochs:
    """Shows what the model makes of one validation image, the same one in every run on a dataset.

    Attributes:
        epoch: the last that was the best so far; 0 before the first.
        model: with the weights of that epoch, from then on.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self.epoch = 0
        self.model: keras.Model | None = None

    @functools.cached_property
    def _chosen(self) -> tuple[np.ndarray, str]:
        records = self._manifest.records("val")
        index = panel_images(records[..., 3], [0.0] * len(records))["fixed_0"]
        return np.array(records[index]), list(self._manifest.examples("val"))[index].file_name

    def __call__(self, model: "keras.Model", epoch: int) -> None:
        self.epoch, self.model = epoch, model
        record, name = self._chosen
        image, mask = record[..., :3], record[..., 3]
        from seg.training.validation import predicted_classes

        classes = self._manifest.classes
        logits = model(image[None].astype(np.float32), training=False)
        prediction = np.asarray(predicted_classes(logits))[0, ..., 0].astype(np.uint8)
        title = f"epoch {epoch}  {name}  Dice {hard_dice(mask[None], prediction[None], len(classes))[0]:.3f}"
        path = epoch_picture(self._folder, epoch)
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), panel(image, mask, prediction, title, classes)[..., ::-1])


def check_channels(network: "keras.Model", manifest: Manifest) -> None:
    """Raises UserError unless a model gives the logits of a dataset's classes."""
    found, wanted = network.output_shape[-1], 1 if len(manifest.classes) == 1 else 1 + len(manifest.classes)
    if found != wanted:
        raise UserError(
            f"the model must give {wanted} logits per pixel for the classes {', '.join(manifest.classes)}, got "
            f"{found}; convert the data with the classes that the model was trained on."
        )


def _load(path: Path, strategy: "tf.distribute.Strategy") -> "keras.Model":
    import keras

    with strategy.scope():
        return keras.models.load_model(path, compile=False, safe_mode=True)


def _write_predictions(
    folder: Path,
    model: "keras.Model",
    manifest: Manifest,
    split: str,
    threshold: float | None,
    batch_size: int,
    strategy: "tf.distribute.Strategy",
    tta: str = "none",
    largest_component: str = "no",
) -> None:
    """Leaves the predictions of a split and panels of some of its images, from one pass over it."""
    from seg.training.evaluation import predict_split

    records = manifest.records(split)
    probabilities = predict_split(model, manifest, split, batch_size, strategy, tta)
    classes = len(manifest.classes)
    predictions = SplitPredictions.of(records, probabilities, threshold, manifest.key, classes, largest_component)
    predictions.save(predictions_file(folder, split))
    names = [example.file_name for example in manifest.examples(split)]
    panels = folder / "panels"
    panels.mkdir(exist_ok=True)
    for name, index in panel_images(records[..., 3], predictions.dice.tolist()).items():
        title = f"{names[index]}  Dice {predictions.dice[index]:.3f}"
        truth, predicted = records[index, ..., 3], predictions.mask(index)
        picture = panel(records[index, ..., :3], truth, predicted, title, manifest.classes)
        cv2.imwrite(str(panels / f"{name}.png"), picture[..., ::-1])


def _write_table(path: Path, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
