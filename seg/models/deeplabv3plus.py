"""DeepLabv3+: convolutions with holes of several widths on the encoder's last features, and a short decoder.

Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation (2018),
https://arxiv.org/abs/1802.02611. The paper keeps its encoder at a 16th of the image's size by holes in the last stage;
here the encoder ends there (`depth=4`). At other depths the holes grow and shrink, so that they span as many pixels.
"""

import keras
from keras import layers

from seg.config import TrainConfig
from seg.models.blocks import LOGITS, Blocks
from seg.models.encoders import encode

RATES = (6, 12, 18)  # of the holes, at a 16th of the image's size
LOW_LEVEL = 2  # the decoder's features are a quarter of the image's size


def build_deeplabv3plus(config: TrainConfig, channels: int) -> keras.Model:
    """Builds a DeepLabv3+.

    The pyramid and the decoder have `4 * filters` channels and the low-level features are reduced to
    `3 * filters // 4`: the paper's 256 and 48 for `filters=64`. Upsampling is bilinear, whatever `upsampling` says.

    Args:
        config: `image_size`, the encoder, `filters`, `depth` from 3 to 5, and what `Blocks` reads.
        channels: logits per pixel.

    Returns:
        a model as `seg.models.build_training_model` describes it, with the final logits only.
    """
    blocks = Blocks(config)
    image = keras.Input((config.image_size, config.image_size, 3), name="image")
    features = encode(image, config, blocks)
    deep, low = features[config.depth], features[LOW_LEVEL]
    assert deep is not None
    assert low is not None
    width = 4 * config.filters

    branches = [blocks.unit(deep, width, "pyramid_0", size=1)]
    for number, rate in enumerate(RATES, start=1):
        dilation = rate * 16 // 2**config.depth
        branches.append(blocks.separable_unit(deep, width, f"pyramid_{number}", dilation=dilation))
    branches.append(_pooled(deep, width, blocks))
    x = blocks.unit(blocks.join(branches, "pyramid"), width, "pyramid", size=1)
    x = blocks.drop(x, "pyramid")

    x = blocks.resize(x, 2 ** (config.depth - LOW_LEVEL), "pyramid_resize")
    reduced = blocks.unit(low, max(1, 3 * config.filters // 4), "low_level", size=1)
    x = blocks.join([reduced, x], "decoder")
    for number in (1, 2):
        x = blocks.separable_unit(x, width, "decoder", f"_{number}")
    x = blocks.drop(x, "decoder")
    x = layers.Conv2D(channels, 1, dtype="float32", name="small_logits")(x)
    logits = layers.UpSampling2D(2**LOW_LEVEL, interpolation="bilinear", dtype="float32", name=LOGITS)(x)
    return keras.Model(image, logits, name="deeplabv3plus")


def _pooled(x: keras.KerasTensor, channels: int, blocks: Blocks) -> keras.KerasTensor:
    """The mean over the image, at every pixel. Not normalised: one pixel per image has no statistics of its own."""
    size = x.shape[1]
    x = layers.GlobalAveragePooling2D(keepdims=True, dtype=blocks.policy, name="pyramid_pool")(x)
    x = layers.Conv2D(channels, 1, activation="relu", dtype=blocks.policy, name="pyramid_pool_convolution")(x)
    return layers.UpSampling2D(size, dtype=blocks.policy, name="pyramid_pool_up")(x)
