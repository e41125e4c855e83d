"""The U-Net of `seg.models.unet` as anybody would write it in Keras: runs on every backend of Keras."""

import keras
from keras import layers


def build(image_size: int, filters: int, precision: str = "float32", depth: int = 4) -> keras.Model:
    """A model from (batch, image_size, image_size, 3), 0 to 255, to logits (batch, image_size, image_size, 1)."""
    policy = keras.DTypePolicy(precision)

    def unit(x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=policy)(x)
        x = layers.BatchNormalization(momentum=0.9, dtype=policy)(x)
        return layers.ReLU(dtype=policy)(x)

    image = keras.Input((image_size, image_size, 3))
    x = layers.Rescaling(1 / 255, dtype=policy)(image)
    skipped = []
    for level in range(depth):
        x = unit(unit(x, filters * 2**level), filters * 2**level)
        skipped.append(x)
        x = layers.MaxPooling2D(2, dtype=policy)(x)
    x = unit(unit(x, filters * 2**depth), filters * 2**depth)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(filters * 2**level, 2, strides=2, dtype=policy)(x)
        x = layers.Concatenate(dtype=policy)([skipped[level], x])
        x = unit(unit(x, filters * 2**level), filters * 2**level)
    return keras.Model(image, layers.Conv2D(1, 1, dtype="float32")(x))


def dice_loss(masks: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """One minus soft Dice, one value per image, from logits in float32."""
    ops = keras.ops
    probabilities = ops.sigmoid(logits)
    both = ops.sum(masks * probabilities, axis=(1, 2, 3))
    total = ops.sum(masks, axis=(1, 2, 3)) + ops.sum(probabilities, axis=(1, 2, 3))
    return 1 - (2 * both + 1) / (total + 1)


def bce_dice(masks: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy plus one minus Dice, one value per image."""
    bce = keras.ops.mean(keras.ops.softplus(logits) - masks * logits, axis=(1, 2, 3))
    return bce + dice_loss(masks, logits)
