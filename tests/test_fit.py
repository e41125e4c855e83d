from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator

from seg.config import PRECISIONS, TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import training_dataset
from seg.errors import UserError
from seg.losses import bce
from seg.metrics import count_classes as count_classes_numpy
from seg.metrics import hard_dice
from seg.training.devices import make_strategy
from seg.training.evaluation import predict_split
from seg.training.fit import MODEL, TrainingDiverged, compiled_model, fit
from seg.training.result import EpochReport, TrainResult
from seg.training.validation import count_classes
from tests.tiny import write_tiny

CONFIG = TrainConfig(image_size=16, depth=1, filters=2, batch_size=5, epochs=3)


def train(manifest: Manifest, folder: Path, on_epoch: Any = lambda report: True, **changes: Any) -> TrainResult:
    return fit(replace(CONFIG, **changes), manifest, make_strategy("auto"), folder, on_epoch)


def script_dice(monkeypatch: pytest.MonkeyPatch, *values: float, val_loss: float = 1.0) -> None:
    """Replaces validation by given scores, one per epoch."""
    remaining = iter(values)

    def score(self: Any) -> Any:
        from seg.training.validation import ValidationScore

        return ValidationScore(loss=val_loss, dice=next(remaining), images=7)

    monkeypatch.setattr("seg.training.validation.Validation.__call__", score)


@pytest.mark.slow
def test_it_learns_and_keeps_the_best_model(tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path, train=40, val=11)
    result = train(manifest, tmp_path, filters=4, depth=2, batch_size=8, loss="bce_dice", learning_rate=5e-3, epochs=15)
    assert result.val_dice > 0.6
    assert result.val_dice == max(report.val_dice for report in result.history)
    assert result.history[result.best_epoch - 1].val_dice == result.val_dice

    # The file alone, without our loss or optimizer, scores what was reported: the weights are the best epoch's.
    model = keras.models.load_model(tmp_path / result.model, safe_mode=True)
    assert not model.compiled
    predicted = np.stack(list(predict_split(model, manifest, "val", 4, make_strategy("auto"))))
    scores = hard_dice(manifest.records("val")[..., 3], predicted >= 0.5)
    assert scores.mean() == pytest.approx(result.val_dice, abs=1e-6)


def test_the_result_describes_the_run(tiny: Manifest, tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    result = train(tiny, tmp_path, lambda report: reports.append(report) or True)
    assert result.stop_reason == "epochs"
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert result.history == tuple(reports)
    assert (result.replicas, result.batch_size, result.model) == (1, 5, MODEL)
    assert result.parameters == 106 + 248 + 34 + 124 + 3  # worked out in test_models.py
    assert all(report.images_per_second > 0 and report.seconds > 0 for report in reports)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]


def test_train_loss_is_the_mean_over_the_epochs_images(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A loss that ignores the logits: each image costs its share of foreground, whatever is learned.
    def share(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.cast(masks == 1, tf.float32), (1, 2, 3)) + 0.0 * bce(masks, logits)

    for name in ("get_loss", "validation_loss"):
        monkeypatch.setattr(f"seg.training.fit.{name}", lambda name: share)
    result = train(tiny, tmp_path, batch_size=13, epochs=1)
    assert result.history[0].train_loss == pytest.approx(tiny.splits["train"].foreground, rel=1e-5)
    assert result.history[0].val_loss == pytest.approx(tiny.splits["val"].foreground, rel=1e-5)


def test_false_from_on_epoch_stops(tiny: Manifest, tmp_path: Path) -> None:
    result = train(tiny, tmp_path, lambda report: report.epoch < 2)
    assert result.stop_reason == "pruned"
    assert len(result.history) == 2
    assert (tmp_path / MODEL).exists()


def test_early_stopping_keeps_the_first_of_equals(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Best in epoch 2; epochs 3 and 4 are no better: patience 2 is used up.
    script_dice(monkeypatch, 0.1, 0.5, 0.5, 0.4, 0.9)
    result = train(tiny, tmp_path, epochs=5, patience=2)
    assert result.stop_reason == "early_stopping"
    assert (result.best_epoch, len(result.history)) == (2, 4)


def test_patience_0_never_stops(tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_dice(monkeypatch, 0.5, 0.4, 0.3, 0.2)
    assert train(tiny, tmp_path, epochs=4, patience=0).stop_reason == "epochs"


def test_a_training_loss_that_is_no_number(tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg.training.fit.get_loss", lambda name: lambda masks, logits: bce(masks, logits) * np.nan)
    with pytest.raises(TrainingDiverged, match=r"train_loss is nan in epoch 1; use a learning_rate lower than 0\.001"):
        train(tiny, tmp_path)
    assert not (tmp_path / MODEL).exists()


def test_a_validation_loss_that_is_infinite(tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_dice(monkeypatch, 0.5, val_loss=float("inf"))
    with pytest.raises(TrainingDiverged, match="val_loss is inf in epoch 1"):
        train(tiny, tmp_path)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains(tiny: Manifest, tmp_path: Path, precision: str) -> None:
    result = train(tiny, tmp_path, precision=precision, epochs=1)
    assert np.isfinite(result.history[0].train_loss)


def test_keras_does_not_trace_the_model_once_more_to_build_its_loss(
    tiny: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = make_strategy("auto")
    with strategy.scope():
        _, model = compiled_model(CONFIG, 1, 1)

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr("keras.src.backend.compute_output_spec", fail)
    model.fit(training_dataset(tiny, CONFIG, 5), steps_per_epoch=1, epochs=1, verbose=0, shuffle=False)
    assert model.optimizer.iterations == 1


def test_keras_makes_one_iterator(tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that it dropped at once, to build the model from its first batch, ended the process now and then."""
    made, make = [], TFEpochIterator._get_iterator

    def noted(self: TFEpochIterator) -> Any:
        made.append(self)
        return make(self)

    monkeypatch.setattr(TFEpochIterator, "_get_iterator", noted)
    train(tiny, tmp_path)
    assert len(made) == 1


def test_another_image_size(tiny: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was converted at image_size 16, got 32; use image_size 16 or convert again"):
        train(tiny, tmp_path, image_size=32)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_images(tiny: Manifest, tmp_path: Path, split: str) -> None:
    splits = {name: summary for name, summary in tiny.splits.items() if name != split}
    with pytest.raises(UserError, match=f"training needs images in the {split} split"):
        train(replace(tiny, splits=splits), tmp_path)


def test_counting_on_a_device_equals_counting_on_the_host() -> None:
    random = np.random.default_rng(0)
    for classes in (1, 3):
        masks = random.choice([*range(classes + 1), 255], (6, 8, 8, 1)).astype(np.float32)
        predictions = random.integers(0, classes + 1, (6, 8, 8, 1)).astype(np.float32)
        expected = count_classes_numpy(masks, predictions, classes)
        np.testing.assert_array_equal(count_classes(masks, predictions, classes), expected)
