"""The final evaluation of a model: a threshold tuned on validation, then the scores of a split with their intervals.

The names and what they mean:

    dice                 hard Dice per image at the training size, mean over all images
    dice_own_size        the same at each image's own size: the probability is resized, then thresholded
    dice_pooled          Dice of all images' pixels counted together, at the training size
    iou_50               share of images with an IoU of at least 0.5, at the training size
    dice_positive        `dice` over the images with foreground only; left out where there are none
    false_positive_rate  share of the images without foreground in which some is predicted; left out likewise
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from seg.data.images import resize_probability
from seg.data.manifest import IGNORE, Example, Manifest
from seg.data.masks import region
from seg.data.pipeline import evaluation_dataset
from seg.metrics import count_pixels, dice_per_image, hard_dice, iou_per_image
from seg.statistics import Interval, bootstrap_mean, bootstrap_ratio
from seg.symmetries import symmetries
from seg.training.calibration import Calibration, Reliability
from seg.training.every_image import EveryImage
from seg.training.image_score import ImageScore, groups_of
from seg.training.thresholds import THRESHOLDS, best_threshold, dice_at_thresholds


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a model on a split.

    Attributes:
        threshold: foreground is where the probability is at least this.
        examples: images in the split; empty: those without foreground at the training size.
        scores: by the names above.
        images: every image's own score, in the order of the records.
        threshold_curve: mean Dice of the split at each of `THRESHOLDS`.
        calibration: of the pixels' probabilities at the training size.
    """

    threshold: float
    examples: int
    empty: int
    scores: dict[str, Interval]
    images: tuple[ImageScore, ...]
    threshold_curve: tuple[float, ...]
    calibration: Reliability


def predict_split(
    model: keras.Model,
    manifest: Manifest,
    split: str,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    tta: str = "none",
) -> Iterator[np.ndarray]:
    """The probability of foreground for each image of a split, in the order of the records.

    Args:
        batch_size: images at a time; the strategy's number of replicas divides it.
        tta: test-time augmentation; see `seg.symmetries`.

    Yields:
        `(image_size, image_size)` float32 in [0, 1], one image at a time: memory is bounded by the batch.
    """

    def probability(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor]:
        found = []
        for swapped, axes in symmetries(tta):
            seen = tf.reverse(tf.transpose(images, (0, 2, 1, 3)) if swapped else images, axes)
            seen = tf.reverse(tf.sigmoid(model(seen, training=False)), axes)
            found.append(tf.transpose(seen, (0, 2, 1, 3)) if swapped else seen)
        return (tf.add_n(found)[..., 0] / len(found),)

    for (batch,) in EveryImage(probability, evaluation_dataset(manifest, split, batch_size), strategy):
        yield from batch


def threshold_curve(
    model: keras.Model,
    manifest: Manifest,
    split: str,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    tta: str = "none",
) -> tuple[float, ...]:
    """The mean Dice per image of a split, at the training size, at each of `THRESHOLDS`."""
    total = np.zeros(len(THRESHOLDS))
    predicted = predict_split(model, manifest, split, batch_size, strategy, tta)
    for probability, record in zip(predicted, manifest.records(split), strict=True):
        total += dice_at_thresholds(record[..., 3], probability)
    return tuple((total / manifest.splits[split].examples).tolist())


def tune_threshold(
    model: keras.Model, manifest: Manifest, split: str, batch_size: int, strategy: tf.distribute.Strategy
) -> float:
    """The one of `THRESHOLDS` with the best mean Dice per image on a split; of equals, the one nearest to 0.5."""
    return best_threshold(threshold_curve(model, manifest, split, batch_size, strategy))


def evaluate(
    model: keras.Model,
    manifest: Manifest,
    split: str,
    threshold: float,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    tta: str = "none",
) -> Evaluation:
    """Scores every image of a split.

    Args:
        threshold: foreground is where the probability is at least this; from `tune_threshold` on another split.
        batch_size, tta: as in `predict_split`.
    """
    images = []
    curve = np.zeros(len(THRESHOLDS))
    calibration = Calibration()
    predicted = predict_split(model, manifest, split, batch_size, strategy, tta)
    rows = zip(predicted, manifest.records(split), manifest.examples(split), strict=True)
    for index, (probability, record, example) in enumerate(rows):
        counts = count_pixels(record[None, ..., 3], (probability >= threshold)[None])
        curve += dice_at_thresholds(record[..., 3], probability)
        calibration.add(record[..., 3], probability)
        images.append(
            ImageScore(
                index=index,
                file_name=example.file_name,
                dice=float(dice_per_image(counts)[0]),
                dice_own_size=_dice_own_size(probability, example, threshold),
                iou=float(iou_per_image(counts)[0]),
                true_positive=int(counts[0, 0]),
                false_positive=int(counts[0, 1]),
                false_negative=int(counts[0, 2]),
                group=example.group or "",
            )
        )
    return Evaluation(
        threshold=threshold,
        examples=len(images),
        empty=sum(not image.foreground for image in images),
        scores=_scores(images),
        images=tuple(images),
        threshold_curve=tuple((curve / len(images)).tolist()),
        calibration=calibration.result(),
    )


def _scores(images: list[ImageScore]) -> dict[str, Interval]:
    """The scores by name; where images have groups, the bootstrap draws groups."""
    positive = [image for image in images if image.foreground]
    empty = [image for image in images if not image.foreground]
    scores = {
        "dice": _mean(images, [image.dice for image in images]),
        "dice_own_size": _mean(images, [image.dice_own_size for image in images]),
        "dice_pooled": bootstrap_ratio(
            [2 * image.true_positive for image in images],
            [2 * image.true_positive + image.false_positive + image.false_negative for image in images],
            groups=groups_of(images),
            empty=1.0,
        ),
        "iou_50": _mean(images, [float(image.iou >= 0.5) for image in images]),
    }
    if positive:
        scores["dice_positive"] = _mean(positive, [image.dice for image in positive])
    if empty:
        scores["false_positive_rate"] = _mean(empty, [float(image.false_positive > 0) for image in empty])
    return scores


def _mean(images: list[ImageScore], values: list[float]) -> Interval:
    return bootstrap_mean(values, groups=groups_of(images))


def _dice_own_size(probability: np.ndarray, example: Example, threshold: float) -> float:
    mask = region(example.mask, example.height, example.width)
    if example.ignore is not None:
        mask[region(example.ignore, example.height, example.width) == 1] = IGNORE
    prediction = resize_probability(probability, example.height, example.width) >= threshold
    return float(hard_dice(mask[None], prediction[None])[0])
