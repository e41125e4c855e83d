"""The models: one file per architecture."""

import keras

from seg.config import TrainConfig
from seg.models.unet import build_unet


def build_model(config: TrainConfig) -> keras.Model:
    """A new model with random weights; call it within the scope of the strategy that trains it.

    Returns:
        a model from images `(batch, image_size, image_size, 3)`, values 0 to 255, to logits
        `(batch, image_size, image_size, 1)` in float32. It consists of Keras's own layers only, so that its
        `.keras` file loads anywhere without this project.
    """
    return build_unet(
        image_size=config.image_size, filters=config.filters, depth=config.depth, precision=config.precision
    )
