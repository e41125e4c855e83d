"""U-Net: an encoder that halves the image `depth` times, a decoder that doubles it back beside the encoder's features.

Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation (2015),
https://arxiv.org/abs/1505.04597; with padding, so that the logits have the image's size, and batch normalisation.
"""

import keras
import tensorflow as tf
from keras import layers

# Of the running statistics. Keras's 0.99 needs hundreds of steps to forget where it began: after the few hundred steps
# of a short training, predictions made with them are far from those made with a batch's own statistics.
MOMENTUM = 0.9


def build_unet(*, image_size: int, filters: int, depth: int, precision: str = "float32") -> keras.Model:
    """Builds a U-Net.

    Args:
        image_size: side of the image in pixels, a multiple of 2**depth.
        filters: channels of the first level; each of the `depth` levels below has twice as many as the one above.
        depth: times that the image is halved.
        precision: Keras dtype policy of the layers; the logits are float32 in any case.

    Returns:
        a model from `(batch, image_size, image_size, 3)`, 0 to 255, to logits `(batch, image_size, image_size, 1)`.
    """
    policy = keras.DTypePolicy(precision)
    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 255, dtype=policy, name="rescaling")(image)

    skipped = []
    for level in range(depth):
        x = _block(x, filters * 2**level, policy, f"encoder_{level}")
        skipped.append(x)
        x = layers.MaxPooling2D(2, dtype=policy, name=f"encoder_{level}_pool")(x)
    x = _block(x, filters * 2**depth, policy, "bottom")
    for level in reversed(range(depth)):
        channels = filters * 2**level
        x = layers.Conv2DTranspose(channels, 2, strides=2, dtype=policy, name=f"decoder_{level}_up")(x)
        x = layers.Concatenate(dtype=policy, name=f"decoder_{level}_concatenate")([skipped[level], x])
        x = _block(x, channels, policy, f"decoder_{level}")

    logits = layers.Conv2D(1, 1, dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name="unet")


def _block(x: keras.KerasTensor, channels: int, policy: keras.DTypePolicy, name: str) -> keras.KerasTensor:
    """Twice: 3×3 convolution, batch normalisation, ReLU."""
    # Plain statistics per replica would make the result depend on the number of replicas; one replica is spared the
    # all-reduce. The saved layer gives the same values either way.
    synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1
    for number in (1, 2):
        # No bias: the normalisation behind it would take it out again.
        x = layers.Conv2D(
            channels,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=policy,
            name=f"{name}_convolution_{number}",
        )(x)
        x = layers.BatchNormalization(
            momentum=MOMENTUM, synchronized=synchronized, dtype=policy, name=f"{name}_normalization_{number}"
        )(x)
        x = layers.ReLU(dtype=policy, name=f"{name}_relu_{number}")(x)
    return x
