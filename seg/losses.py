"""Losses: pure functions of masks and logits that return one value per image.

A loss that returns a scalar is N times too big under N replicas: Keras divides only the mean that it takes
itself. Hence every function here returns `(batch,)`, and goes to `compile(loss=...)` as it is.

All of them compute in float32, whatever the model's precision, and leave out the ignored pixels (mask 255). An
image of which every pixel is ignored has loss 0.

One logit per pixel is that of foreground, for masks of 0 and 1. More are those of background and the classes 1, 2, …:
their probabilities are the softmax, `bce` is the cross-entropy over them, and the others are the mean over the
foreground classes of what they are of one. A class that an image lacks counts like an empty mask.
"""

from collections.abc import Callable

import tensorflow as tf

from seg.data.manifest import IGNORE
from seg.errors import UserError

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

SMOOTHING = 1.0  # pixels; on both sides of the Dice fraction, so that an empty mask has a gradient too
PIXELS = (1, 2, 3)
AREA = (1, 2)
MISSED, FALSE, FOCUS = 0.7, 0.3, 0.75  # of `focal_tversky`: weights of missed and of false pixels, exponent
FLOOR = 1e-7  # of what the exponent is applied to


def bce(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy, binary or of several classes, mean over the pixels of each image.

    Args:
        masks: `(batch, height, width, 1)`, values 0, 1 and 255 (ignored); of several classes, 0, 1, … classes and 255.
        logits: `(batch, height, width, 1)`; of several classes, `(batch, height, width, 1 + classes)`.

    Returns:
        `(batch,)` float32.
    """
    valid, truth, logits = _prepare(masks, logits)
    if logits.shape[-1] > 1:
        labels = tf.cast(truth[..., 0], tf.int32)
        per_pixel = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)[..., None]
        return tf.reduce_sum(valid * per_pixel, PIXELS) / tf.maximum(tf.reduce_sum(valid, PIXELS), 1.0)
    per_pixel = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=logits)
    return tf.reduce_sum(valid * per_pixel, PIXELS) / tf.maximum(tf.reduce_sum(valid, PIXELS), 1.0)


def dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Soft Dice loss of each image: 1 - (2·Σ p·t + s) / (Σ p + Σ t + s), with s = 1 pixel.

    Args and returns as `bce`. After Milletari et al., V-Net (2016), https://arxiv.org/abs/1606.04797, smoothed.
    """
    probability, truth = _by_class(masks, logits)
    both = tf.reduce_sum(probability * truth, AREA)
    either = tf.reduce_sum(probability + truth, AREA)
    return tf.reduce_mean(1.0 - (2.0 * both + SMOOTHING) / (either + SMOOTHING), 1)


def bce_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The sum of `bce` and `dice`; arguments and returns as there."""
    return bce(masks, logits) + dice(masks, logits)


def focal_tversky(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Focal Tversky loss of each image: (1 - (Σ p·t + s) / (Σ p·t + 0.7 Σ (1-p)·t + 0.3 Σ p·(1-t) + s)) ** 0.75.

    A missed pixel costs more than a false one. Args and returns as `bce`. Abraham and Khan, A Novel Focal Tversky loss
    function (2019), https://arxiv.org/abs/1810.07842, their exponent 1/γ = 3/4.
    """
    probability, truth = _by_class(masks, logits)
    both = tf.reduce_sum(probability * truth, AREA)
    missed = tf.reduce_sum(truth, AREA) - both
    false = tf.reduce_sum(probability, AREA) - both
    index = (both + SMOOTHING) / (both + MISSED * missed + FALSE * false + SMOOTHING)
    # The power's slope is infinite at 0: without a floor a perfect image would have the gradient NaN.
    return tf.reduce_mean(tf.maximum(1.0 - index, FLOOR) ** FOCUS - FLOOR**FOCUS, 1)


def batch_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Soft Dice loss of the whole batch, as `dice` with the sums over all pixels of all images, once per image.

    Under a strategy the sums go over all replicas, so that the loss does not depend on their number. Args as `bce`.

    Returns:
        `(batch,)` float32, the same value for each image, so that their mean is the batch's.
    """
    probability, truth = _by_class(masks, logits)
    pixels = (0, *AREA)
    sums = tf.stack([tf.reduce_sum(probability * truth, pixels), tf.reduce_sum(probability + truth, pixels)])
    replica = tf.distribute.get_replica_context()
    if replica is not None and replica.num_replicas_in_sync > 1:
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    loss = tf.reduce_mean(1.0 - (2.0 * sums[0] + SMOOTHING) / (sums[1] + SMOOTHING))
    return tf.fill([tf.shape(logits)[0]], loss)


_LOSSES: dict[str, Loss] = {
    "bce": bce,
    "dice": dice,
    "bce_dice": bce_dice,
    "focal_tversky": focal_tversky,
    "batch_dice": batch_dice,
}


def validation_loss(name: str) -> Loss:
    """The loss of that name as `val_loss` has it, a mean over images whatever their batches: `dice` for `batch_dice`.

    Raises:
        UserError: if there is none.
    """
    return dice if name == "batch_dice" else get_loss(name)


def get_loss(name: str) -> Loss:
    """The loss of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in _LOSSES:
        raise UserError(f"loss must be one of {', '.join(_LOSSES)}, got '{name}'.")
    return _LOSSES[name]


def mean_over_outputs(loss: Loss, channels: int = 1) -> Loss:
    """The loss of a training model: the mean of `loss` over the logits that it emits one beside the other.

    Args:
        loss: of one output.
        channels: of one output.

    Returns:
        a function of masks `(batch, height, width, 1)` and logits `(batch, height, width, outputs * channels)` to
        `(batch,)`.
    """

    def of_each(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        outputs = tf.split(logits, logits.shape[-1] // channels, axis=-1)
        return tf.add_n([loss(masks, output) for output in outputs]) / len(outputs)

    return of_each


def _by_class(masks: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Probability and truth (0 or 1) of each foreground class, `(batch, height, width, classes)`; 0 where ignored."""
    valid, truth, logits = _prepare(masks, logits)
    if logits.shape[-1] == 1:
        return valid * tf.sigmoid(logits), truth
    labels = tf.range(1, logits.shape[-1], dtype=tf.float32)
    return valid * tf.nn.softmax(logits)[..., 1:], tf.cast(truth == labels, tf.float32)


def _prepare(masks: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Valid pixels (0 or 1), truth (0, 1 or the class; ignored pixels 0) and logits, all float32."""
    valid = tf.cast(masks != IGNORE, tf.float32)
    truth = tf.cast(masks, tf.float32) * valid
    return valid, truth, tf.cast(logits, tf.float32)
