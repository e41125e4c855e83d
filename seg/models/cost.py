"""What a model costs, counted from its layers."""

import math

import keras
from keras import layers


def multiply_adds(model: keras.Model) -> int:
    """Multiplications, each with an addition, of the convolutions for one image; all else is small beside them."""
    return sum(_of_layer(layer) for layer in model.layers)


def _of_layer(layer: layers.Layer) -> int:
    if isinstance(layer, layers.Conv2DTranspose):
        return math.prod(layer.input.shape[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.SeparableConv2D):
        kernels = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
        return math.prod(layer.output.shape[1:3]) * kernels
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
        return math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    return 0
