"""Resume is exact: interrupted after any epoch, training ends as if it had never stopped, bit for bit."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training import fit as fit_module
from seg.training.checkpoint import KEPT, Checkpoints
from seg.training.devices import make_strategy
from seg.training.fit import MODEL, fit, with_settled_precision
from seg.training.result import EpochReport, TrainResult
from tests.tiny import write_tiny

CONFIG = TrainConfig(
    image_size=16,
    depth=1,
    filters=2,
    batch_size=5,
    epochs=4,
    augmentation="full",
    dropout=0.3,  # its random generator is part of the state
    patience=0,
    learning_rate=0.01,
)


class Killed(BaseException):
    """Stands for the end of the process: nothing in `fit` may catch it."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def train(manifest: Manifest, folder: Path, killed_after: int = 0, **changes: Any) -> TrainResult:
    def on_epoch(report: EpochReport) -> bool:
        if report.epoch == killed_after:
            raise Killed
        return True

    config = replace(CONFIG, **changes)
    return fit(config, manifest, make_strategy("auto"), folder, on_epoch, folder / "checkpoints")


def outcome(result: TrainResult, folder: Path) -> list[Any]:
    """Everything but the clock: scores, history and the weights of the best epoch."""
    history = [(report.epoch, report.train_loss, report.val_loss, report.val_dice) for report in result.history]
    weights = keras.models.load_model(folder / MODEL, compile=False).get_weights()
    return [result.best_epoch, result.val_dice, history, [array.tobytes() for array in weights]]


@pytest.fixture(scope="module")
def uninterrupted(tiny: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("whole")
    return outcome(train(tiny, folder), folder)


@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_interrupted_after_any_epoch_it_ends_the_same(
    tiny: Manifest, tmp_path: Path, uninterrupted: list[Any], killed_after: int
) -> None:
    with pytest.raises(Killed):
        train(tiny, tmp_path, killed_after)
    keras.utils.set_random_seed(99)  # another process would not have this one's random state either
    assert outcome(train(tiny, tmp_path), tmp_path) == uninterrupted


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_best_model_is_written_again_if_the_kill_came_before_it_was(
    tiny: Manifest, tmp_path: Path, ema: float
) -> None:
    with pytest.raises(Killed):
        train(tiny, tmp_path, 1, ema=ema)
    expected = keras.models.load_model(tmp_path / MODEL).get_weights()
    (tmp_path / MODEL).unlink()  # as a kill between checkpoint and model leaves it
    with pytest.raises(Killed):
        train(tiny, tmp_path, 1, ema=ema)
    found = keras.models.load_model(tmp_path / MODEL).get_weights()
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_the_whole_recipe_goes_on_exactly(tiny: Manifest, tmp_path: Path) -> None:
    recipe = {
        "augmentation": "square",
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_epochs": 1,
        "clip_norm": 0.5,
        "ema": 0.9,
        "foreground_share": 0.5,
        "loss": "focal_tversky",
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = outcome(train(tiny, whole, **recipe), whole)
    with pytest.raises(Killed):
        train(tiny, parts, 2, **recipe)
    keras.utils.set_random_seed(99)
    assert outcome(train(tiny, parts, **recipe), parts) == expected


@pytest.mark.slow
def test_interrupted_again_and_again(tiny: Manifest, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    changes = {"precision": "mixed_float16"}  # its loss scale is part of the state, too
    for epoch in (1, 3):
        with pytest.raises(Killed):
            train(tiny, parts, epoch, **changes)
    assert outcome(train(tiny, parts, **changes), parts) == outcome(train(tiny, whole, **changes), whole)


def test_what_auto_meant_where_training_began(
    tiny: Manifest, tmp_path: Path, uninterrupted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where it means another format, it goes on in that of the checkpoint."""
    means = "float32"
    monkeypatch.setattr(
        fit_module,
        "with_chosen_precision",
        lambda config: replace(config, precision=means) if config.precision == "auto" else config,
    )
    with pytest.raises(Killed):
        train(tiny, tmp_path, 2, precision="auto")
    means = "mixed_bfloat16"
    assert outcome(train(tiny, tmp_path, precision="auto"), tmp_path) == uninterrupted
    (tmp_path / "checkpoints" / "epoch_00004.npz").write_bytes(b"torn")
    auto = replace(CONFIG, precision="auto")
    assert with_settled_precision(auto, tmp_path / "checkpoints").precision == "float32"
    assert with_settled_precision(auto, tmp_path / "none").precision == "mixed_bfloat16"
    given = replace(CONFIG, precision="mixed_float16")
    with pytest.raises(UserError, match="must be of the same training"):
        train(tiny, tmp_path, precision=given.precision)


def test_a_call_that_goes_on_reports_the_epochs_before(tiny: Manifest, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tiny, tmp_path, killed_after=2)
    heard: list[int] = []
    fit(
        CONFIG,
        tiny,
        make_strategy("auto"),
        tmp_path,
        lambda report: bool(heard.append(report.epoch)) or True,
        tmp_path / "checkpoints",
    )
    assert heard == [1, 2, 3, 4]


def test_a_verdict_that_was_not_heard_is_asked_for_again(tiny: Manifest, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tiny, tmp_path, killed_after=2)
    verdict = lambda report: report.epoch < 2  # noqa: E731
    result = fit(CONFIG, tiny, make_strategy("auto"), tmp_path, verdict, tmp_path / "checkpoints")
    assert (result.stop_reason, len(result.history)) == ("pruned", 2)


def test_two_checkpoints_stay_and_nothing_half_written(tiny: Manifest, tmp_path: Path) -> None:
    train(tiny, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch_00003.npz", "epoch_00004.npz"]
    assert KEPT == 2


@pytest.mark.parametrize("damage", ["half", "empty", "flipped", "text"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    model, checkpoints = small_model(), Checkpoints(tmp_path, {})
    checkpoints.save(model, reports(1))
    wanted = [array.copy() for array in model.get_weights()]
    model.set_weights([array + 1 for array in wanted])
    checkpoints.save(model, reports(2))
    newest = tmp_path / "epoch_00002.npz"
    data = newest.read_bytes()
    flipped = bytearray(data)
    flipped[data.index(model.get_weights()[0].tobytes())] ^= 0xFF  # one byte of the weights
    newest.write_bytes({"half": data[: len(data) // 2], "empty": b"", "flipped": flipped, "text": b"text"}[damage])
    assert checkpoints.restore(model) == reports(1)
    assert all((old == new).all() for old, new in zip(wanted, model.get_weights(), strict=True))


def test_no_byte_of_the_directory_can_break_it(tmp_path: Path) -> None:
    model, checkpoints = small_model(), Checkpoints(tmp_path, {})
    checkpoints.save(model, reports(1))
    checkpoints.save(model, reports(2))
    newest = tmp_path / "epoch_00002.npz"
    data = newest.read_bytes()
    restored = []
    for place in range(data.index(b"PK\x01\x02"), len(data)):
        for change in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= change
            newest.write_bytes(damaged)
            restored.append(len(checkpoints.restore(model)))
    assert set(restored) == {1, 2}  # some bytes, such as dates, do no harm


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 1}, "must be of the same training, and has config"), ({"batch_size": 4}, "to begin anew")],
)
def test_a_checkpoint_of_another_training(tiny: Manifest, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Killed):
        train(tiny, tmp_path, killed_after=1)
    with pytest.raises(UserError, match=message):
        train(tiny, tmp_path, **change)


def test_no_room_for_a_checkpoint(tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(UserError, match="No space left on device; make room and run the same command again"):
            train(tiny, tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert len(train(tiny, tmp_path).history) == 4


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk(tiny: Manifest, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch_00001.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="make room"):
        train(tiny, tmp_path)


def test_no_checkpoints_unless_asked(tiny: Manifest, tmp_path: Path) -> None:
    fit(replace(CONFIG, epochs=1), tiny, make_strategy("auto"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]


def test_restoring_nothing_changes_nothing(tmp_path: Path) -> None:
    model = small_model()
    before = [array.copy() for array in model.get_weights()]
    assert Checkpoints(tmp_path / "none", {}).restore(model) == []
    assert all((old == new).all() for old, new in zip(before, model.get_weights(), strict=True))


def small_model() -> keras.Model:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="adam")
    model.optimizer.build(model.trainable_variables)
    return model


def reports(epochs: int) -> list[EpochReport]:
    return [
        EpochReport(epoch=epoch, train_loss=1, val_loss=2, val_dice=0.5, images_per_second=3, seconds=4)
        for epoch in range(1, epochs + 1)
    ]
