"""Losses: pure functions of masks and logits that return one value per image.

A loss that returns a scalar is N times too big under N replicas: Keras divides only the mean that it takes
itself. Hence every function here returns `(batch,)`, and goes to `compile(loss=...)` as it is.

All of them compute in float32, whatever the model's precision, and leave out the ignored pixels (mask 255). An
image of which every pixel is ignored has loss 0.
"""

from collections.abc import Callable

import tensorflow as tf

from seg.data.manifest import IGNORE
from seg.errors import UserError

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

SMOOTHING = 1.0  # pixels; on both sides of the Dice fraction, so that an empty mask has a gradient too
PIXELS = (1, 2, 3)


def bce(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy, mean over the pixels of each image.

    Args:
        masks: `(batch, height, width, 1)`, values 0, 1 and 255 (ignored).
        logits: `(batch, height, width, 1)`.

    Returns:
        `(batch,)` float32.
    """
    valid, truth, logits = _prepare(masks, logits)
    per_pixel = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=logits)
    return tf.reduce_sum(valid * per_pixel, PIXELS) / tf.maximum(tf.reduce_sum(valid, PIXELS), 1.0)


def dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Soft Dice loss of each image: 1 - (2·Σ p·t + s) / (Σ p + Σ t + s), with s = 1 pixel.

    Args and returns as `bce`. After Milletari et al., V-Net (2016), https://arxiv.org/abs/1606.04797, smoothed.
    """
    valid, truth, logits = _prepare(masks, logits)
    probability = valid * tf.sigmoid(logits)
    both = tf.reduce_sum(probability * truth, PIXELS)
    either = tf.reduce_sum(probability + truth, PIXELS)
    return 1.0 - (2.0 * both + SMOOTHING) / (either + SMOOTHING)


def bce_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The sum of `bce` and `dice`; arguments and returns as there."""
    return bce(masks, logits) + dice(masks, logits)


_LOSSES: dict[str, Loss] = {"bce": bce, "dice": dice, "bce_dice": bce_dice}


def get_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in _LOSSES:
        raise UserError(f"loss must be one of {', '.join(_LOSSES)}, got '{name}'.")
    return _LOSSES[name]


def mean_over_outputs(loss: Loss) -> Loss:
    """The loss of a training model: the mean of `loss` over the logits that it emits one beside the other.

    Returns:
        a function of masks `(batch, height, width, 1)` and logits `(batch, height, width, outputs)` to `(batch,)`.
    """

    def of_each(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        outputs = tf.split(logits, logits.shape[-1], axis=-1)
        return tf.add_n([loss(masks, output) for output in outputs]) / len(outputs)

    return of_each


def _prepare(masks: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Valid pixels (0 or 1), truth (0 or 1, ignored pixels 0) and logits, all float32."""
    valid = tf.cast(masks != IGNORE, tf.float32)
    truth = tf.cast(masks, tf.float32) * valid
    return valid, truth, tf.cast(logits, tf.float32)
