"""The score of a model on the validation split, exact for any number of replicas and any last batch."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from seg.data.manifest import IGNORE, Manifest
from seg.data.pipeline import evaluation_dataset
from seg.losses import Loss
from seg.metrics import mean_class_dice
from seg.training.every_image import EveryImage


@dataclass(frozen=True, kw_only=True)
class ValidationScore:
    """Means over the images of a split.

    Attributes:
        loss: per image.
        dice: hard Dice per image at threshold 0.5; of several classes, where each has the highest logit, their mean.
        images: how many were scored.
    """

    loss: float
    dice: float
    images: int


class Validation:
    """Scores a model again and again, with the weights that it has at each call."""

    def __init__(
        self,
        model: keras.Model,
        loss: Loss,
        manifest: Manifest,
        split: str,
        batch_size: int,
        strategy: tf.distribute.Strategy,
    ) -> None:
        classes = len(manifest.classes)

        def score(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = model(images, training=False)
            return loss(masks, logits), count_classes(masks, predicted_classes(logits), classes)

        self._every_image = EveryImage(score, evaluation_dataset(manifest, split, batch_size), strategy)

    def __call__(self) -> ValidationScore:
        losses, counts = (np.concatenate(parts) for parts in zip(*self._every_image, strict=True))
        return ValidationScore(
            loss=float(losses.mean(dtype=np.float64)), dice=float(mean_class_dice(counts).mean()), images=len(losses)
        )


def predicted_classes(logits: tf.Tensor) -> tf.Tensor:
    """The class of each pixel, `(batch, height, width, 1)` float32: the highest logit's; 1 where a lone one is ≥ 0."""
    if logits.shape[-1] == 1:
        return tf.cast(logits >= 0, tf.float32)
    return tf.cast(tf.argmax(logits, -1), tf.float32)[..., None]


def count_classes(masks: tf.Tensor, predictions: tf.Tensor, classes: int) -> tf.Tensor:
    """`seg.metrics.count_classes` on a device: only three numbers per image and class leave it.

    Args:
        masks: `(batch, height, width, 1)`, values 0, the classes from 1 on, and 255 (ignored).
        predictions: the same shape, 0 or a class.
        classes: how many there are.

    Returns:
        `(batch, classes, 3)` int32: true positive, false positive and false negative pixels.
    """
    labels = tf.range(1, classes + 1, dtype=tf.float32)
    truth, found, known = masks == labels, predictions == labels, masks != IGNORE
    kinds = (truth & found, known & ~truth & found, truth & ~found)
    return tf.stack([tf.reduce_sum(tf.cast(kind, tf.int32), (1, 2)) for kind in kinds], axis=2)
