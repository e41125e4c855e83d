"""Batch normalisation in one operation, for training: the same values as Keras's layer, in less time.

Keras computes the normalisation of a batch from a dozen elementwise operations. TensorFlow has one operation for all
of it, on CPU and GPU; docs/performance.md has what it gains. Models are built of Keras's own layers and trained with
these in their place; what is saved is the model of Keras's own layers, with the trained weights.
"""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import layers

_CHANNELS_OF_VECTOR = {4: 8, 2: 16}
"""By bytes of a value: multiples of so many have fast code in oneDNN."""


class FusedBatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the channels of `(batch, height, width, channels)`, in one operation."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if not (training and self.trainable):
            # Keras's own formula: validation then sees exactly what the saved model gives.
            return super().call(inputs, training=training, mask=mask)
        scale, offset = (tf.convert_to_tensor(weight) for weight in (self.gamma, self.beta))
        pixels = pixels_side_by_side(inputs)
        if pixels == 1:
            result, mean, variance = _in_one_operation(inputs, scale, offset, self.epsilon)
        else:
            result, mean, variance = _widened(inputs, scale, offset, self.epsilon, pixels)
        for kept, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept.assign(kept * self.momentum + new * (1.0 - self.momentum))
        return result


def pixels_side_by_side(features: tf.Tensor) -> int:
    """How many pixels make whole vectors of a processor with their channels; 1 where one pixel does, and on GPUs.

    oneDNN, which computes the operation on CPUs, has fast code for whole vectors alone: with 8 channels of bfloat16 its
    other code takes six times as long as that for 16.

    Args:
        features: (batch, height, width, channels).
    """
    height, width, channels = features.shape[1:]
    vector = _CHANNELS_OF_VECTOR[4 if features.dtype == tf.float32 else 2]
    pixels = vector // math.gcd(channels, vector)
    if height is None or width is None or height * width % pixels or tf.config.list_logical_devices("GPU"):
        return 1
    return pixels


def _in_one_operation(
    features: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalised features, and mean and variance of each channel."""
    nothing = tf.zeros((0,), tf.float32)
    result, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=features, scale=scale, offset=offset, mean=nothing, variance=nothing, epsilon=epsilon, is_training=True
    )
    # The operation's variance is that of a sample (n - 1); Keras keeps that of the batch (n).
    values = tf.cast(tf.size(features) // tf.shape(features)[-1], tf.float32)
    return result, mean, variance * (values - 1.0) / values


def _widened(
    features: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float, pixels: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """As `_in_one_operation`, with the channels of some pixels side by side as if they were channels of their own.

    Their statistics are put together to those of the true channels, and given to the operation that normalises. Its
    gradient leaves out that the statistics depend on the features: what that adds is linear in the features.
    """
    height, width, channels = features.shape[1:]
    wide_shape = (-1, height * width // pixels, 1, channels * pixels)
    nothing, zeros, ones = tf.zeros((0,)), tf.zeros((channels * pixels,)), tf.ones((channels * pixels,))

    def widened(values: tf.Tensor) -> tf.Tensor:
        return tf.tile(values, (pixels,))

    def by_channel(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, (pixels, channels))

    def linear(wide: tf.Tensor, slope: tf.Tensor, constant: tf.Tensor) -> tf.Tensor:
        """In float32 within, whatever the features are; a product with 16 channels of its own would be slower."""
        result, *_ = tf.raw_ops.FusedBatchNormV3(
            x=wide, scale=slope, offset=constant, mean=zeros, variance=ones, epsilon=0.0, is_training=False
        )
        return result

    @tf.custom_gradient
    def normalized(features: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> Any:
        wide = tf.reshape(features, wide_shape)
        _, means, variances = _in_one_operation(wide, ones, zeros, epsilon)
        means, variances = by_channel(means), by_channel(variances)
        mean = tf.reduce_mean(means, 0)
        variance = tf.reduce_mean(variances + tf.square(means - mean), 0)
        statistics = widened(mean), widened(variance)
        result, *_ = tf.raw_ops.FusedBatchNormV3(
            x=wide,
            scale=widened(scale),
            offset=widened(offset),
            mean=statistics[0],
            variance=statistics[1],
            epsilon=epsilon,
            is_training=False,
        )

        def gradient(by_result: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            by_wide, by_scale, by_offset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=tf.reshape(by_result, tf.shape(wide)),
                x=wide,
                scale=widened(scale),
                reserve_space_1=statistics[0],
                reserve_space_2=statistics[1],
                reserve_space_3=nothing,
                epsilon=epsilon,
                is_training=False,
            )
            by_scale, by_offset = (tf.reduce_sum(by_channel(each), 0) for each in (by_scale, by_offset))
            values = tf.cast(tf.size(features) // channels, tf.float32)
            per_deviation = tf.math.rsqrt(variance + epsilon)
            slope = scale * tf.square(per_deviation) * by_scale / values
            constant = scale * per_deviation * by_offset / values - slope * mean
            by_wide += linear(wide, widened(-slope), widened(-constant))
            return tf.reshape(by_wide, tf.shape(features)), by_scale, by_offset

        return (tf.reshape(result, tf.shape(features)), mean, variance), gradient

    return normalized(features, scale, offset)


def with_fused_normalization(model: keras.Model) -> keras.Model:
    """A copy of a model, its weights too, whose batch normalisation is fused wherever that computes the same.

    Layers whose statistics go over several replicas stay: the operation knows only its own. Weights are in the same
    order as before, so `get_weights` and `set_weights` carry them back. Call it within the strategy's scope.
    """

    def replace(layer: layers.Layer) -> layers.Layer:
        if type(layer) is not layers.BatchNormalization or not _can_be_fused(layer):
            return layer.__class__.from_config(layer.get_config())
        return FusedBatchNormalization.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=replace)
    copy.set_weights(model.get_weights())
    return copy


def _can_be_fused(layer: Any) -> bool:
    return bool(layer.scale and layer.center and not layer.synchronized and layer.axis in (-1, 3))
