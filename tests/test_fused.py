"""Fused batch normalisation is Keras's own: values, gradients, statistics and saved model."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from seg.config import TrainConfig
from seg.models import build_model
from seg.training.fused import FusedBatchNormalization, with_fused_normalization


def pictures(channels: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 7, channels)).astype(np.float32)


def normalization(
    kind: type[layers.BatchNormalization], channels: int, dtype: str = "float32"
) -> layers.BatchNormalization:
    layer = kind(momentum=0.9, dtype=dtype)
    layer.build((None, 5, 7, channels))
    layer.gamma.assign(np.linspace(0.5, 2.0, channels))
    layer.beta.assign(np.linspace(-1.0, 1.0, channels))
    return layer


@pytest.mark.parametrize("channels", [6, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
class TestFusedBatchNormalization:
    def test_a_training_step_is_keras_own(self, channels: int, dtype: str, tolerance: float) -> None:
        found = []
        for kind in (layers.BatchNormalization, FusedBatchNormalization):
            layer = normalization(kind, channels, dtype)
            images = tf.Variable(pictures(channels))
            with tf.GradientTape() as tape:
                result = tf.cast(layer(images, training=True), tf.float32)
                loss = tf.reduce_sum(tf.sin(result))
            gradients = tape.gradient(loss, [images, layer.gamma.value, layer.beta.value])
            found.append([result, *gradients, layer.moving_mean, layer.moving_variance])
        for keras_own, fused in zip(*found, strict=True):
            np.testing.assert_allclose(fused, keras_own, rtol=tolerance, atol=tolerance)

    def test_without_training_it_is_keras_own_bit_for_bit(self, channels: int, dtype: str, tolerance: float) -> None:
        results = []
        for kind in (layers.BatchNormalization, FusedBatchNormalization):
            layer = normalization(kind, channels, dtype)
            results.append(tf.cast(layer(pictures(channels), training=False), tf.float32).numpy())
        np.testing.assert_array_equal(*results)


def test_a_model_keeps_its_weights_and_its_order_of_weights() -> None:
    model = build_model(TrainConfig(image_size=16, depth=1, filters=2))
    fused = with_fused_normalization(model)
    assert count(fused, lambda layer: isinstance(layer, FusedBatchNormalization)) == 6
    assert [weight.shape for weight in fused.weights] == [weight.shape for weight in model.weights]
    images = np.random.default_rng(1).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(fused(images), model(images))


def test_layers_over_several_replicas_stay() -> None:
    image = keras.Input((4, 4, 2))
    model = keras.Model(image, layers.BatchNormalization(synchronized=True)(image))
    assert count(with_fused_normalization(model), lambda layer: isinstance(layer, FusedBatchNormalization)) == 0


def count(model: keras.Model, wanted: Callable[[layers.Layer], bool]) -> int:
    return sum(wanted(layer) for layer in model.layers)
