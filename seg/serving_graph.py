"""The graph that answers: a trained model from uint8 images to logits, made fast without changing what it says.

Travels with the registered model. Imports Keras, so that it is imported where a model is loaded, not before.
"""

from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def serving_graph(model: Any) -> Any:
    """From uint8 images to logits, in one graph for batches of every length: layer by layer takes several times longer.

    With its weights as constants, TensorFlow makes normalisation a part of the convolutions, and transposed
    convolutions become convolutions; both round otherwise. A model of half precision stays as it is: its rounding is
    what was validated.

    Args:
        model: from (batch, height, width, 3), 0 to 255, to logits; it is not changed.

    Returns:
        a function from (batch, height, width, 3) uint8 to logits (batch, height, width, channels) float32.
    """
    exact = all(layer.compute_dtype == "float32" for layer in model._flatten_layers())
    served = _without_transposed(model) if exact else model

    def logits(pictures: tf.Tensor) -> tf.Tensor:
        return served(tf.cast(pictures, tf.float32), training=False)

    graph = tf.function(logits, input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)])
    if not exact:
        return graph
    constant = convert_variables_to_constants_v2(graph.get_concrete_function())
    # Called as a function, it would compare its arguments with two signatures first: 0.3 ms.
    return lambda pictures: constant._call_flat([tf.convert_to_tensor(pictures)], constant.captured_inputs)[0]


class _Doubling(keras.layers.Conv2DTranspose):
    """A transposed 2×2 convolution with stride 2 as a 1×1 convolution that gives the four pixels of each at once.

    No two of its 2×2 patches overlap, so that each pixel is the same sum of products either way. On a CPU TensorFlow
    computes it faster so.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel = tf.transpose(self.kernel, (3, 0, 1, 2))  # from (row, column, output, input)
        kernel = tf.reshape(kernel, (1, 1, inputs.shape[-1], 4 * self.filters))
        outputs = tf.nn.conv2d(inputs, kernel, 1, "VALID")
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.tile(self.bias, [4]))
        return tf.nn.depth_to_space(outputs, 2)


def _without_transposed(model: Any) -> Any:
    """A copy of the model with `_Doubling` layers; the model itself where there is nothing to put them for."""
    if not any(map(_doubles, model.layers)):
        return model

    def copy(layer: Any) -> Any:
        kind = _Doubling if _doubles(layer) else type(layer)
        return kind.from_config(layer.get_config())

    copied = keras.models.clone_model(model, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied


def _doubles(layer: Any) -> bool:
    """Whether a layer is what `_Doubling` computes."""
    return (
        type(layer) is keras.layers.Conv2DTranspose
        and layer.kernel_size == layer.strides == (2, 2)
        and layer.dilation_rate == (1, 1)
        and layer.output_padding is None
        and layer.data_format == "channels_last"
        and layer.activation is keras.activations.linear
    )
