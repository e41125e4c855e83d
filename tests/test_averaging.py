"""The averaged weights take the place of the model's own, with statistics that belong to them, and give it back."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import training_dataset
from seg.losses import get_loss
from seg.models import build_model
from seg.training.averaging import WeightAverage
from seg.training.devices import make_strategy
from seg.training.fused import with_fused_normalization
from seg.training.optimizer import make_optimizer

KEPT = 0.8
CONFIG = TrainConfig(image_size=16, depth=1, filters=2, batch_size=5, learning_rate=0.05, ema=KEPT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model after five steps, what its weights were after each, and its average."""
    from tests.tiny import write_tiny

    manifest = write_tiny(tmp_path_factory.mktemp("averaging"), train=25)
    keras.utils.set_random_seed(0)
    model = with_fused_normalization(build_model(CONFIG))
    model.compile(optimizer=make_optimizer(CONFIG, 5), loss=get_loss("bce"), jit_compile=False)
    course: list[list[np.ndarray]] = []
    remember = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: course.append([weight.numpy() for weight in model.trainable_variables])
    )
    # `fit` puts the average into the model when it ends; the course of a real training is looked at before.
    own: list[list[np.ndarray]] = []
    last = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: own.append([weight.numpy() for weight in model.variables])
    )
    batches = training_dataset(manifest, CONFIG, 5)
    model.fit(batches, steps_per_epoch=5, epochs=1, verbose=0, shuffle=False, callbacks=[remember, last])
    for variable, value in zip(model.variables, own[0], strict=True):
        variable.assign(value)
    return model, manifest, course, WeightAverage(model, CONFIG, manifest, 5, make_strategy("auto"))


def test_the_weights_are_the_average_of_all_steps(trained: Any) -> None:
    model, _, course, average = trained
    expected = course[0]
    for weights in course[1:]:
        expected = [KEPT * old + (1 - KEPT) * new for old, new in zip(expected, weights, strict=True)]
    with average.applied(1):
        for weight, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-7)
    assert any(np.any(value != last) for value, last in zip(expected, course[-1], strict=True))


def test_the_statistics_are_those_of_training_batches_under_the_averaged_weights(trained: Any) -> None:
    model, manifest, _, average = trained
    with average.applied(1):
        found = [weight.numpy() for weight in model.non_trainable_variables if "moving" in weight.path]
        first = next(layer for layer in model.layers if "convolution_1" in layer.name)
        inputs = keras.Model(model.inputs, first.output)
        means, variances = [], []
        for images, _ in training_dataset(manifest, CONFIG, 5).take(5):
            features = inputs(images).numpy()
            means.append(features.mean((0, 1, 2)))
            variances.append(features.var((0, 1, 2)))
    # A moving average with momentum 0.9 over five batches, its weights made to sum to 1.
    weights = 0.9 ** np.arange(4, -1, -1)
    weights /= weights.sum()
    np.testing.assert_allclose(found[0], weights @ np.array(means), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], weights @ np.array(variances), rtol=1e-4, atol=1e-6)


def test_they_do_not_depend_on_what_the_statistics_were(trained: Any) -> None:
    model, _, _, average = trained
    found = []
    for shift in (0.0, 5.0):
        for weight in model.non_trainable_variables:
            if "moving" in weight.path:
                weight.assign(weight + shift)
        with average.applied(1):
            found.append([weight.numpy() for weight in model.variables])
        for weight in model.non_trainable_variables:
            if "moving" in weight.path:
                weight.assign(weight - shift)
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_models_own_variables_come_back_even_after_an_error(trained: Any) -> None:
    model, _, _, average = trained
    before = [weight.numpy() for weight in model.variables]
    with pytest.raises(RuntimeError, match="full"), average.applied(2):
        raise RuntimeError("the disk is full")
    for weight, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_model_without_normalisation_has_no_statistics(tmp_path: Path, tiny: Manifest) -> None:
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Conv2D(1, 1)(image))
    model.compile(optimizer=make_optimizer(CONFIG, 2), loss=get_loss("bce"), jit_compile=False)
    model.fit(training_dataset(tiny, CONFIG, 5), steps_per_epoch=1, verbose=0, shuffle=False)
    with WeightAverage(model, CONFIG, tiny, 5, make_strategy("auto")).applied(1):
        assert tf.math.is_finite(model.variables[0]).numpy().all()
