"""The models: one file per architecture."""

from collections.abc import Callable

import keras

from seg.config import TrainConfig
from seg.models.attention_unet import build_attention_unet
from seg.models.blocks import LOGITS, logit_channels
from seg.models.deeplabv3plus import build_deeplabv3plus
from seg.models.precision import with_chosen_precision
from seg.models.unet import build_unet
from seg.models.unet_plus_plus import build_unet_plus_plus

_BUILDERS: dict[str, Callable[[TrainConfig, int], keras.Model]] = {
    "unet": build_unet,
    "attention_unet": build_attention_unet,
    "unet_plus_plus": build_unet_plus_plus,
    "deeplabv3plus": build_deeplabv3plus,
}


def build_training_model(config: TrainConfig, classes: int = 1) -> keras.Model:
    """A new model as it is trained; call it within the scope of the strategy that trains it.

    Args:
        config: its options.
        classes: of the dataset, background not counted.

    Returns:
        a model from images `(batch, image_size, image_size, 3)`, values 0 to 255, to logits
        `(batch, image_size, image_size, outputs * channels)` in float32; channels are `logit_channels(classes)`. The
        layer `LOGITS` emits the first output, which is the result; with deep supervision there are others, of which
        each is compared with the mask, too. It consists of Keras's own layers only, so that its `.keras` file loads
        anywhere without this project.

    Raises:
        UserError: if the encoder's weights cannot be had.
    """
    return _BUILDERS[config.architecture](with_chosen_precision(config), logit_channels(classes))


def final_model(model: keras.Model) -> keras.Model:
    """The part of a training model that gives the result, the layer `LOGITS`; they share weights."""
    return keras.Model(model.input, model.get_layer(LOGITS).output, name=model.name)


def build_model(config: TrainConfig, classes: int = 1) -> keras.Model:
    """A new model with random weights that gives the result only; else as `build_training_model`."""
    return final_model(build_training_model(config, classes))
