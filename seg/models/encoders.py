"""Encoders: the features of an image at half its size, a quarter, an eighth, and so on.

Beside the plain one of `Blocks`, networks of keras.applications without their classifier: Howard et al., Searching for
MobileNetV3 (2019), https://arxiv.org/abs/1905.02244; He et al., Deep Residual Learning for Image Recognition (2016),
https://arxiv.org/abs/1512.03385; Tan and Le, EfficientNetV2 (2021), https://arxiv.org/abs/2104.00298.
"""

from collections.abc import Callable

import keras
from keras import layers, ops

from seg.config import TrainConfig
from seg.models.blocks import MOMENTUM, Blocks, synchronized
from seg.models.encoder_weights import load_weights


def encode(image: keras.KerasTensor, config: TrainConfig, blocks: Blocks) -> list[keras.KerasTensor | None]:
    """The features that the encoder of a configuration makes of the images.

    Args:
        image: `(batch, image_size, image_size, 3)`, 0 to 255.

    Returns:
        `depth + 1` features, number `k` of which is `2**k` times smaller than the image. A network of
        keras.applications begins by halving the image: it has no number 0.

    Raises:
        UserError: if the weights that it shall begin with cannot be had.
    """
    if config.encoder == "none":
        return [*blocks.encoder(image, config.filters, config.depth)]
    build, prepare = _NETWORKS[config.encoder]
    network = build(config.image_size)
    load_weights(network, config.encoder, config.encoder_weights)
    adapted = _adapted(network, prepare(image), config)
    sizes = [config.image_size // 2**level for level in range(1, config.depth + 1)]
    return [None, *(_last_of_size(adapted, size) for size in sizes)]


def _adapted(network: keras.Model, images: keras.KerasTensor, config: TrainConfig) -> keras.Model:
    """The same network on these images, with our precision, batch normalisation and dropout."""

    def adapt(layer: keras.Operation) -> keras.Operation:
        settings = layer.get_config()
        if isinstance(layer, layers.Layer):  # and no plain sum of two tensors
            settings |= {"dtype": config.precision}
        if isinstance(layer, layers.BatchNormalization):
            settings |= {"momentum": MOMENTUM, "synchronized": synchronized()}
        if isinstance(layer, layers.Dropout):
            settings["rate"] = config.dropout  # a branch of a block is dropped as a whole
        return type(layer).from_config(settings)

    adapted = keras.models.clone_model(network, input_tensors=images, clone_function=adapt)
    adapted.set_weights(network.get_weights())
    return adapted


def _last_of_size(network: keras.Model, size: int) -> keras.KerasTensor:
    """The last features of `size`×`size` pixels, just before the network halves them."""
    found = [
        layer.output
        for layer in network.layers
        if len(layer.output.shape) == 4
        and layer.output.shape[1] == size
        and not isinstance(layer, layers.ZeroPadding2D)
    ]
    return found[-1]


def _mobilenet(build: Callable[..., keras.Model]) -> Callable[[int], keras.Model]:
    return lambda size: build((size, size, 3), include_top=False, weights=None, include_preprocessing=False)


def _resnet50(size: int) -> keras.Model:
    return keras.applications.ResNet50(include_top=False, weights=None, input_shape=(size, size, 3))


def _efficientnet(size: int) -> keras.Model:
    return keras.applications.EfficientNetV2B0(
        include_top=False, weights=None, input_shape=(size, size, 3), include_preprocessing=False
    )


# What the weights of keras.applications were trained with, of values from 0 to 255. In float32, whatever the precision.


def _to_one(image: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="preparation")(image)


def _minus_mean(image: keras.KerasTensor) -> keras.KerasTensor:
    """Blue first, minus the mean of ImageNet."""
    means = layers.Normalization(
        mean=[103.939, 116.779, 123.68], variance=[1.0, 1.0, 1.0], dtype="float32", name="preparation"
    )
    return means(ops.flip(image, axis=-1))


def _standardized(image: keras.KerasTensor) -> keras.KerasTensor:
    """Minus the mean of ImageNet, by its standard deviation."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return layers.Normalization(
        mean=[255 * value for value in mean],
        variance=[(255 * value) ** 2 for value in deviation],
        dtype="float32",
        name="preparation",
    )(image)


_NETWORKS: dict[str, tuple[Callable[[int], keras.Model], Callable[[keras.KerasTensor], keras.KerasTensor]]] = {
    "mobilenetv3small": (_mobilenet(keras.applications.MobileNetV3Small), _to_one),
    "mobilenetv3": (_mobilenet(keras.applications.MobileNetV3Large), _to_one),
    "resnet50": (_resnet50, _minus_mean),
    "efficientnetv2b0": (_efficientnet, _standardized),
}
