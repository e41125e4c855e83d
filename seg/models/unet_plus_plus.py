"""U-Net++: between encoder and decoder, a triangle of blocks that each see all earlier blocks of their level.

Zhou et al., UNet++: A Nested U-Net Architecture for Medical Image Segmentation (2018),
https://arxiv.org/abs/1807.10165. Its deep supervision is `deep_supervision=yes`: each block of the first level gives
logits, and the last one's are the result.
"""

import keras

from seg.config import TrainConfig
from seg.models.blocks import Blocks, finish_model


def build_unet_plus_plus(config: TrainConfig, channels: int) -> keras.Model:
    """Builds a U-Net++; every block of level `k` has `filters * 2**k` channels.

    Args:
        config: `image_size`, `filters`, `depth`, `deep_supervision`, and what `Blocks` reads.
        channels: logits per pixel.

    Returns:
        a model as `seg.models.build_training_model` describes it; deep supervision adds the first level's other blocks.
    """
    blocks = Blocks(config)
    image = keras.Input((config.image_size, config.image_size, 3), name="image")
    rows = [[features] for features in blocks.encoder(image, config.filters, config.depth)]
    for column in range(1, config.depth + 1):
        for level in range(config.depth + 1 - column):
            width, name = config.filters * 2**level, f"node_{level}_{column}"
            below = blocks.up(rows[level + 1][column - 1], width, name)
            x = blocks.join([*rows[level], below], name)
            rows[level].append(blocks.block(x, width, name))
    _, *auxiliary, last = rows[0]
    auxiliary = auxiliary if config.deep_supervision == "yes" else []
    return finish_model(image, last, "unet_plus_plus", channels, auxiliary)
