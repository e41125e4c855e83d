"""Random changes of training records, each a pure function of the records and of numbers drawn elsewhere.

A record is `(size, size, 4)` uint8: the image and its mask. Both go through every geometric step together. The
numbers come from `draw`, which is a function of (seed, epoch) alone: one row per record, so that what happens to a
record depends on neither the batch that it is in nor the process that runs.

The image is float32 from the first step that computes with it on, and every step leaves whole numbers in it: the same
as if it went back to uint8 in between, without the copies.

Where a rotation, zoom or shift brings in pixels from outside the image, image and mask are both mirrored at the
edge: they still belong together, and no artificial border appears that a network could learn.
"""

import math
from collections.abc import Callable

import tensorflow as tf

ROTATION = 15.0  # degrees, either way
ZOOM = 0.1  # of the size, either way
SHIFT = 1 / 16  # of the size, either way
BRIGHTNESS = 25.0  # grey values of 255, either way
CONTRAST = 0.2  # of the distance to the image's mean, either way
GAMMA = 0.3  # of the exponent's logarithm, either way
WIDE_ZOOM, WIDE_SHIFT = 0.2, 1 / 8  # of `square`

DRAWS = (
    "left_right",
    "up_down",
    "rotation",
    "zoom",
    "shift_right",
    "shift_down",
    "brightness",
    "contrast",
    "transposed",
    "gamma",
)


def draw(examples: int, seed: tf.Tensor) -> tf.Tensor:
    """The random numbers of one epoch.

    Args:
        examples: number of records.
        seed: `(2,)` integers.

    Returns:
        `(examples, len(DRAWS))` float32, uniform in [-1, 1).
    """
    return tf.random.stateless_uniform((examples, len(DRAWS)), seed, -1.0, 1.0, alg="philox")


def augment(records: tf.Tensor, draws: tf.Tensor, augmentation: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes a batch of records.

    Args:
        records: `(batch, size, size, 4)` uint8.
        draws: `(batch, len(DRAWS))`, the rows of `draw` that belong to the records.
        augmentation: `none`; `flip`: left-right and up-down, each for half of the records; `full`: flips, then a
            small rotation, zoom and shift, then brightness and contrast; `square`: the eight symmetries of the square,
            zoom and shift, then gamma, brightness and contrast. It turns by right angles only: masks that are
            boxes stay boxes.

    Returns:
        images `(batch, size, size, 3)`, whole numbers from 0 to 255, and masks `(batch, size, size, 1)`, both float32.
    """
    if augmentation == "none":
        return parted(records)
    values = dict(zip(DRAWS, tf.unstack(draws, axis=1), strict=True))
    records = flip_left_right(records, values["left_right"] < 0)
    records = flip_up_down(records, values["up_down"] < 0)
    if augmentation == "flip":
        return parted(records)
    if augmentation == "square":
        records = transpose(records, values["transposed"] < 0)
        images, masks = move(
            records,
            rotation=tf.zeros_like(values["zoom"]),
            zoom=1 + values["zoom"] * WIDE_ZOOM,
            right=values["shift_right"] * WIDE_SHIFT,
            down=values["shift_down"] * WIDE_SHIFT,
        )
        images = change_gamma(images, tf.exp(values["gamma"] * GAMMA))
    else:
        images, masks = move(
            records,
            rotation=values["rotation"] * math.radians(ROTATION),
            zoom=1 + values["zoom"] * ZOOM,
            right=values["shift_right"] * SHIFT,
            down=values["shift_down"] * SHIFT,
        )
    images = change_light(
        images, brightness=values["brightness"] * BRIGHTNESS, contrast=1 + values["contrast"] * CONTRAST
    )
    return images, tf.cast(masks, tf.float32)


def parted(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and masks of `(batch, size, size, 4)` uint8, for the first time apart, as float32."""
    records = tf.cast(records, tf.float32)
    return records[..., :3], records[..., 3:]


def flip_left_right(records: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Mirrors the chosen records, `(batch,)` bool, left to right."""
    return _where(chosen, records, lambda pixels: tf.reverse(pixels, [2]))


def flip_up_down(records: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Mirrors the chosen records, `(batch,)` bool, top to bottom."""
    return _where(chosen, records, lambda pixels: tf.reverse(pixels, [1]))


def transpose(records: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Mirrors the chosen records, `(batch,)` bool, at their diagonal: with both flips, every quarter turn."""
    return _where(chosen, records, lambda pixels: tf.transpose(pixels, (0, 2, 1)))


def _where(chosen: tf.Tensor, records: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Moves the pixels of the chosen records; the four bytes of each as one number, in a seventh of the time."""
    pixels = tf.bitcast(records, tf.int32)
    return tf.bitcast(tf.where(chosen[:, None, None], change(pixels), pixels), tf.uint8)


def move(
    records: tf.Tensor, *, rotation: tf.Tensor, zoom: tf.Tensor, right: tf.Tensor, down: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rotates and enlarges records about their centre, then shifts them: bilinear images, nearest masks.

    Args:
        records: `(batch, size, size, 4)` uint8.
        rotation: `(batch,)` radians, counter-clockwise as seen.
        zoom: `(batch,)` factors; above 1 enlarges.
        right, down: `(batch,)` shares of the size.

    Returns:
        images, float32, of whole numbers, and masks, uint8.
    """
    size = tf.cast(tf.shape(records)[1], tf.float32)
    cosine, sine = tf.cos(rotation) / zoom, tf.sin(rotation) / zoom
    # The operation asks, for each output pixel, where it comes from: the inverse of the change.
    # source = centre + R(-rotation) / zoom · (target - centre - shift)
    centre = (size - 1) / 2
    from_x, from_y = centre + right * size, centre + down * size
    zero = tf.zeros_like(rotation)
    transforms = tf.stack(
        [
            cosine,
            -sine,
            centre - cosine * from_x + sine * from_y,
            sine,
            cosine,
            centre - sine * from_x - cosine * from_y,
            zero,
            zero,
        ],
        axis=1,
    )

    def transform(part: tf.Tensor, interpolation: str) -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=part,
            transforms=transforms,
            output_shape=tf.shape(records)[1:3],
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode="REFLECT",
        )

    # What lies between numbers of 0 to 255 needs no clipping.
    images = tf.round(transform(tf.cast(records[..., :3], tf.float32), "BILINEAR"))
    return images, transform(records[..., 3:], "NEAREST")


def change_light(images: tf.Tensor, *, brightness: tf.Tensor, contrast: tf.Tensor) -> tf.Tensor:
    """Stretches each image's grey values about their mean by `contrast`, then adds `brightness`.

    Args:
        images: `(batch, size, size, 3)` float32 of whole numbers from 0 to 255, as the result is.
        brightness: `(batch,)` grey values of 255.
        contrast: `(batch,)` factors.
    """
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + (images - mean) * contrast[:, None, None, None] + brightness[:, None, None, None]
    return _whole(images)


def change_gamma(images: tf.Tensor, gamma: tf.Tensor) -> tf.Tensor:
    """Raises each image's values, as shares of 255, to the power of `gamma`, `(batch,)`; else as `change_light`."""
    return _whole(255 * tf.pow(images / 255, gamma[:, None, None, None]))


def _whole(images: tf.Tensor) -> tf.Tensor:
    return tf.round(tf.clip_by_value(images, 0.0, 255.0))  # the other way round would leave a few zeros negative
