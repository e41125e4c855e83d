"""The graph that answers: a trained model from uint8 images to logits, made fast without changing what it says.

Travels with the registered model. Imports Keras, so that it is imported where a model is loaded, not before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from seg.openvino_graph import compiled_by_openvino


@dataclass(frozen=True)
class ServingGraph:
    """From uint8 images (batch, height, width, 3) to logits (batch, height, width, channels), float32.

    Threads may call it at once.

    Attributes:
        engine: what computes it: `OpenVINO` or `TensorFlow`.
        compute: the function itself.
    """

    engine: str
    compute: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.compute(images)


def serving_graph(model: Any) -> ServingGraph:
    """The model in one graph for batches of every length: layer by layer takes several times longer.

    With its weights as constants, normalisation becomes a part of the convolutions, and for TensorFlow transposed
    convolutions become convolutions; both round otherwise. TensorFlow leaves normalisation alone in bfloat16, where
    Keras computes it in float32: it is folded into the convolutions here, and the logits are as far from those of
    float32 as before. A model of float16 stays as it is: a weight might not be a number any more.

    Args:
        model: from (batch, height, width, 3), 0 to 255, to logits; it is not changed.
    """
    formats = {layer.compute_dtype for layer in model._flatten_layers()}
    if _for_openvino(model, formats):
        compiled = compiled_by_openvino(lambda: _with_constants(_traced(model)))
        if compiled is not None:
            return ServingGraph("OpenVINO", compiled)
    if not formats <= {"float32", "bfloat16"}:
        function = _traced(model)
        return ServingGraph("TensorFlow", lambda images: function(images).numpy())
    constant = _with_constants(_traced(_put_differently(model, folded="bfloat16" in formats)))

    def logits(images: np.ndarray) -> np.ndarray:
        # Called as a function, it would compare its arguments with two signatures first: 0.3 ms. Of the tensor itself,
        # NumPy's asarray would take 0.1 ms more than `numpy()`.
        found: np.ndarray = constant._call_flat([tf.convert_to_tensor(images)], constant.captured_inputs)[0].numpy()
        return found

    return ServingGraph("TensorFlow", logits)


def _for_openvino(model: Any, formats: set[str]) -> bool:
    """Whether OpenVINO may answer for a model: not on GPUs, and only where it says what the model says.

    In 16 bits it would compute all layers so, also those that Keras keeps in float32. A normalisation by the picture
    itself divides by next to nothing where the picture is of one colour, and multiplies the difference in rounding.
    """
    by_the_picture = keras.layers.GroupNormalization, keras.layers.LayerNormalization
    return (
        formats == {"float32"}
        and not any(isinstance(layer, by_the_picture) for layer in model._flatten_layers())
        and not tf.config.list_physical_devices("GPU")
    )


def _traced(model: Any) -> Any:
    """The model as a function of uint8 images."""

    def logits(pictures: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(tf.cast(pictures, tf.float32), training=False), tf.float32)

    return tf.function(logits, input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)])


def _with_constants(function: Any) -> Any:
    """Its graph, the weights as constants."""
    return convert_variables_to_constants_v2(function.get_concrete_function())


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


class _Nothing(keras.layers.Layer):
    """What is left of a normalisation whose work the convolution before it does."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        return inputs


def _put_differently(model: Any, folded: bool) -> Any:
    """A copy of the model with `_Doubling` layers; the model itself where there is nothing to change.

    Args:
        folded: convolutions take over the normalisation that follows them.
    """
    normalized = _convolutions_before_normalization(model) if folded else {}
    followers = {normalization.name for normalization in normalized.values()}
    if not normalized and not any(map(_doubles, model.layers)):
        return model

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in followers:
            return _Nothing(name=layer.name, dtype=layer.dtype_policy)
        if layer.name in normalized:
            config["use_bias"] = True
        return (_Doubling if _doubles(layer) else type(layer)).from_config(config)

    copied = keras.models.clone_model(model, clone_function=copy)
    for layer, new in zip(model.layers, copied.layers, strict=True):
        if layer.name in normalized:
            new.set_weights(_with_normalization(layer, normalized[layer.name]))
        elif layer.name not in followers:
            new.set_weights(layer.get_weights())
    return copied


def _convolutions_before_normalization(model: Any) -> dict[str, Any]:
    """The batch normalisation that is the only one to hear of a convolution, by the convolution's name."""
    heard: dict[str, list[Any]] = {}  # operations that are no layers too
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            for given in node.input_tensors:
                heard.setdefault(given._keras_history.operation.name, []).append(node.operation)
    outputs = {given._keras_history.operation.name for given in model.outputs}
    return {
        layer.name: heard[layer.name][0]
        for layer in model.layers
        if type(layer) in (keras.layers.Conv2D, keras.layers.SeparableConv2D)
        and layer.activation is keras.activations.linear
        and layer.name not in outputs
        and [type(listener) for listener in heard.get(layer.name, [])] == [keras.layers.BatchNormalization]
    }


def _with_normalization(convolution: Any, normalization: Any) -> list[np.ndarray]:
    """The convolution's weights, which give what the normalisation would make of its result, and a bias."""
    *kernels, bias = convolution.get_weights() if convolution.use_bias else [*convolution.get_weights(), 0.0]
    mean, variance = normalization.moving_mean.numpy(), normalization.moving_variance.numpy()
    factor = 1 / np.sqrt(variance + normalization.epsilon)
    if normalization.scale:
        factor *= normalization.gamma.numpy()
    shift = (bias - mean) * factor
    if normalization.center:
        shift += normalization.beta.numpy()
    *before, last = kernels  # of a separable convolution, the one over the channels comes last
    return [*before, last * factor, shift]


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
