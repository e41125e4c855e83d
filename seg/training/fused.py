"""Batch normalisation in one operation, for training: the same values as Keras's layer, in less time.

Keras computes the normalisation of a batch from a dozen elementwise operations. TensorFlow has one operation for all
of it, on CPU and GPU; docs/performance.md has what it gains. Models are built of Keras's own layers and trained with
these in their place; what is saved is the model of Keras's own layers, with the trained weights.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

_CHANNELS_OF_VECTOR = 16
"""In 16 bits oneDNN has fast code for multiples of so many channels alone: with 8, its other code takes four times as
long as float32 with the two conversions."""


class FusedBatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the channels of `(batch, height, width, channels)`, in one operation."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if not (training and self.trainable):
            # Keras's own formula: validation then sees exactly what the saved model gives.
            return super().call(inputs, training=training, mask=mask)
        nothing = tf.zeros((0,), tf.float32)
        features = inputs
        if inputs.shape[-1] % _CHANNELS_OF_VECTOR and not tf.config.list_logical_devices("GPU"):
            features = tf.cast(inputs, tf.float32)  # as Keras does in every case
        result, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=features,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=nothing,
            variance=nothing,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation's variance is that of a sample (n - 1); Keras keeps that of the batch (n).
        values = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        variance *= (values - 1.0) / values
        for kept, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept.assign(kept * self.momentum + new * (1.0 - self.momentum))
        return tf.cast(result, inputs.dtype)


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
