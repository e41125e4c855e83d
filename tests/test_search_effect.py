"""Every parameter that a study searches really changes the training: after one step, the weights differ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
import pytest

from experiments.studies.search import SearchSpace, suggest
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.training.devices import make_strategy
from seg.training.fit import fit
from tests.tiny import write_tiny

BASE = TrainConfig(image_size=16, batch_size=12, filters=2, depth=2, epochs=1)
OTHER: dict[str, Any] = {
    "loss": "dice",
    "filters": 3,
    "learning_rate": 2e-3,
    "depth": 3,
    "augmentation": "flip",
    "seed": 1,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_tiny(tmp_path_factory.mktemp("tiny"), train=13)  # one step per epoch


def weights_after_one_step(config: TrainConfig, manifest: Manifest, folder: Path) -> np.ndarray:
    folder.mkdir()
    fit(config, manifest, make_strategy("auto"), folder)
    model = keras.models.load_model(folder / "model.keras", compile=False)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def test_the_list_is_what_is_searched() -> None:
    space = SearchSpace(base=BASE, losses=("bce", "dice"), filters=(2, 4), sampler="tpe")
    trial = optuna.create_study().ask()
    suggest(trial, space)
    assert set(trial.params) | {"seed"} == set(OTHER)  # a grid's later rounds differ in the seed


def test_equal_configurations_give_equal_weights(manifest: Manifest, tmp_path: Path) -> None:
    # Without this, any difference below would prove nothing.
    first, second = (weights_after_one_step(BASE, manifest, tmp_path / name) for name in ("a", "b"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", OTHER)
def test_a_searched_parameter_changes_the_weights(name: str, manifest: Manifest, tmp_path: Path) -> None:
    before = weights_after_one_step(BASE, manifest, tmp_path / "base")
    after = weights_after_one_step(replace(BASE, **{name: OTHER[name]}), manifest, tmp_path / "other")
    assert before.shape != after.shape or not np.array_equal(before, after)
