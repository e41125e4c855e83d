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
from seg.metrics import count_pixels, dice_per_image, dice_pooled, hard_dice, iou_per_image
from seg.statistics import Interval, bootstrap_mean
from seg.training.every_image import EveryImage

THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # 0.05, 0.10, … 0.95
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """The score of one image.

    Attributes:
        index: position in the split's records.
        file_name: of the image, in the export.
        dice, dice_own_size, iou: at the training size, at the own size, at the training size.
        true_positive, false_positive, false_negative: pixels at the training size, ignored ones in none of them.
    """

    index: int
    file_name: str
    dice: float
    dice_own_size: float
    iou: float
    true_positive: int
    false_positive: int
    false_negative: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a model on a split.

    Attributes:
        threshold: foreground is where the probability is at least this.
        examples: images in the split; empty: those without foreground at the training size.
        scores: by the names above.
        images: every image's own score, in the order of the records.
    """

    threshold: float
    examples: int
    empty: int
    scores: dict[str, Interval]
    images: tuple[ImageScore, ...]


def predict_split(
    model: keras.Model, manifest: Manifest, split: str, batch_size: int, strategy: tf.distribute.Strategy
) -> Iterator[np.ndarray]:
    """The probability of foreground for each image of a split, in the order of the records.

    Args:
        batch_size: images at a time; the strategy's number of replicas divides it.

    Yields:
        `(image_size, image_size)` float32 in [0, 1], one image at a time: memory is bounded by the batch.
    """

    def probability(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor]:
        return (tf.sigmoid(model(images, training=False))[..., 0],)

    for (batch,) in EveryImage(probability, evaluation_dataset(manifest, split, batch_size), strategy):
        yield from batch


def tune_threshold(
    model: keras.Model, manifest: Manifest, split: str, batch_size: int, strategy: tf.distribute.Strategy
) -> float:
    """The one of `THRESHOLDS` with the best mean Dice per image on a split; of equals, the one nearest to 0.5."""
    total = np.zeros(len(THRESHOLDS))
    thresholds = np.reshape(THRESHOLDS, (-1, 1, 1))
    predicted = predict_split(model, manifest, split, batch_size, strategy)
    for probability, record in zip(predicted, manifest.records(split), strict=True):
        mask = np.broadcast_to(record[..., 3], (len(THRESHOLDS), *probability.shape))
        total += hard_dice(mask, probability >= thresholds)
    return max(zip(total, THRESHOLDS, strict=True), key=lambda pair: (round(pair[0], 6), -abs(pair[1] - 0.5)))[1]


def evaluate(
    model: keras.Model,
    manifest: Manifest,
    split: str,
    threshold: float,
    batch_size: int,
    strategy: tf.distribute.Strategy,
) -> Evaluation:
    """Scores every image of a split.

    Args:
        threshold: foreground is where the probability is at least this; from `tune_threshold` on another split.
        batch_size: as in `predict_split`.
    """
    images = []
    predicted = predict_split(model, manifest, split, batch_size, strategy)
    rows = zip(predicted, manifest.records(split), manifest.examples(split), strict=True)
    for index, (probability, record, example) in enumerate(rows):
        counts = count_pixels(record[None, ..., 3], (probability >= threshold)[None])
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
            )
        )
    return Evaluation(
        threshold=threshold,
        examples=len(images),
        empty=sum(_is_empty(image) for image in images),
        scores=_scores(images),
        images=tuple(images),
    )


def _scores(images: list[ImageScore]) -> dict[str, Interval]:
    positive = [image for image in images if not _is_empty(image)]
    empty = [image for image in images if _is_empty(image)]
    scores = {
        "dice": bootstrap_mean([image.dice for image in images]),
        "dice_own_size": bootstrap_mean([image.dice_own_size for image in images]),
        "dice_pooled": _pooled_interval(images),
        "iou_50": bootstrap_mean([float(image.iou >= 0.5) for image in images]),
    }
    if positive:
        scores["dice_positive"] = bootstrap_mean([image.dice for image in positive])
    if empty:
        scores["false_positive_rate"] = bootstrap_mean([float(image.false_positive > 0) for image in empty])
    return scores


def _pooled_interval(images: list[ImageScore]) -> Interval:
    """Dice of all pixels together; the interval comes from drawing images anew, as everywhere, not pixels."""
    counts = np.array([(image.true_positive, image.false_positive, image.false_negative) for image in images])
    random = np.random.default_rng(0)
    drawn = [dice_pooled(counts[random.integers(len(counts), size=len(counts))]) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(mean=dice_pooled(counts), low=float(low), high=float(high))


def _is_empty(image: ImageScore) -> bool:
    return image.true_positive + image.false_negative == 0


def _dice_own_size(probability: np.ndarray, example: Example, threshold: float) -> float:
    mask = region(example.mask, example.height, example.width)
    if example.ignore is not None:
        mask[region(example.ignore, example.height, example.width) == 1] = IGNORE
    prediction = resize_probability(probability, example.height, example.width) >= threshold
    return float(hard_dice(mask[None], prediction[None])[0])
