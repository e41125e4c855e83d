"""Multiply-adds, by hand."""

import keras
from keras import layers

from seg.config import TrainConfig
from seg.models import build_model
from seg.models.cost import multiply_adds


def test_a_unet_by_hand() -> None:
    # filters 2, depth 1, 8×8 pixels: per convolution, pixels of the output · size² · channels in · channels out.
    encoder = 64 * 9 * (3 * 2 + 2 * 2)
    bottom = 16 * 9 * (2 * 4 + 4 * 4)
    up = 64 * 4 * 2  # each of the 8×8 pixels is reached once from 4 channels, to 2
    decoder = 64 * 9 * (4 * 2 + 2 * 2)
    logits = 64 * 2
    model = build_model(TrainConfig(image_size=8, filters=2, depth=1))
    assert multiply_adds(model) == encoder + bottom + up + decoder + logits


def test_convolutions_per_channel() -> None:
    image = keras.Input((6, 6, 3))
    x = layers.SeparableConv2D(5, 3, padding="same")(image)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    assert multiply_adds(keras.Model(image, x)) == 36 * (9 * 3 + 3 * 5) + 9 * (9 * 5)
