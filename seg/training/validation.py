"""The score of a model on the validation split, exact for any number of replicas and any last batch."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from seg.data.manifest import Manifest
from seg.data.pipeline import evaluation_dataset
from seg.losses import Loss
from seg.metrics import dice_per_image
from seg.training.every_image import EveryImage


@dataclass(frozen=True, kw_only=True)
class ValidationScore:
    """Means over the images of a split.

    Attributes:
        loss: per image.
        dice: hard Dice per image at threshold 0.5.
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
        def score(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = model(images, training=False)
            return loss(masks, logits), count_pixels(masks, logits >= 0)

        self._every_image = EveryImage(score, evaluation_dataset(manifest, split, batch_size), strategy)

    def __call__(self) -> ValidationScore:
        losses, counts = (np.concatenate(parts) for parts in zip(*self._every_image, strict=True))
        return ValidationScore(
            loss=float(losses.mean(dtype=np.float64)), dice=float(dice_per_image(counts).mean()), images=len(losses)
        )


def count_pixels(masks: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
    """`seg.metrics.count_pixels` on a device: only three numbers per image leave it.

    Args:
        masks: `(batch, height, width, 1)`, values 0, 1 and 255 (ignored).
        predictions: bool, the same shape.

    Returns:
        `(batch, 3)` int32: true positive, false positive and false negative pixels.
    """
    truth = masks == 1
    kinds = (truth & predictions, (masks == 0) & predictions, truth & ~predictions)
    return tf.stack([tf.reduce_sum(tf.cast(kind, tf.int32), (1, 2, 3)) for kind in kinds], axis=1)
