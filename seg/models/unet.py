"""U-Net: an encoder that halves the image `depth` times, a decoder that doubles it back beside the encoder's features.

Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation (2015),
https://arxiv.org/abs/1505.04597; with padding, so that the logits have the image's size, and normalisation.
"""

import keras

from seg.config import TrainConfig
from seg.models.blocks import Blocks, finish_model
from seg.models.encoders import encode


def build_unet(config: TrainConfig, channels: int) -> keras.Model:
    """Builds a U-Net.

    Level `k` of the decoder has `filters * 2**k` channels, and so has that of the plain encoder. An encoder from
    keras.applications brings channels of its own, and no features of the image's size: the last level has none beside.

    Args:
        config: `image_size`, the encoder, `filters`, `depth`, `deep_supervision`, and what `Blocks` reads.
        channels: logits per pixel.

    Returns:
        a model as `seg.models.build_training_model` describes it; deep supervision adds the decoder's other levels.
    """
    blocks = Blocks(config)
    image = keras.Input((config.image_size, config.image_size, 3), name="image")
    *skipped, x = encode(image, config, blocks)
    decoded = []
    for level in reversed(range(config.depth)):
        width = config.filters * 2**level
        x = blocks.up(x, width, f"decoder_{level}")
        beside = skipped[level]
        x = blocks.join([x] if beside is None else [beside, x], f"decoder_{level}")
        x = blocks.block(x, width, f"decoder_{level}")
        decoded.append(x)
    auxiliary = decoded[:-1] if config.deep_supervision == "yes" else []
    return finish_model(image, x, "unet", channels, auxiliary)
