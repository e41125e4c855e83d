"""The final evaluation of a model: a threshold tuned on validation, then the scores of a split with their intervals.

The names and what they mean:

    dice                 hard Dice per image at the training size, mean over all images
    dice_own_size        the same at each image's own size: the probability is resized, then thresholded
    dice_pooled          Dice of all images' pixels counted together, at the training size
    iou_50               share of images with an IoU of at least 0.5, at the training size
    dice_positive        `dice` over the images with foreground only; left out where there are none
    false_positive_rate  share of the images without foreground in which some is predicted; left out likewise
    dice_NAME            of several classes, `dice` of each over the images in which it is there or predicted

Of several classes, the Dice and IoU of an image are the means over the classes that are there or predicted (see
`seg.metrics`), the pixels of `dice_pooled` are those of all classes, and the class with the highest probability wins:
there is no threshold.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from seg.data.images import resize_probability
from seg.data.manifest import Example, Manifest
from seg.data.masks import own_mask
from seg.data.pipeline import evaluation_dataset
from seg.decision import decide
from seg.metrics import class_dice, count_classes, hard_dice, mean_class_dice, mean_class_iou
from seg.statistics import Interval, bootstrap_mean, bootstrap_ratio
from seg.symmetries import symmetries
from seg.training.calibration import Calibration, Reliability
from seg.training.every_image import EveryImage
from seg.training.image_score import ImageScore, groups_of, score_names
from seg.training.thresholds import THRESHOLDS, best_threshold, dice_at_thresholds


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a model on a split.

    Attributes:
        threshold: foreground is where the probability is at least this; None of several classes.
        examples: images in the split; empty: those without foreground at the training size.
        scores: by the names above.
        images: every image's own score, in the order of the records.
        threshold_curve: mean Dice of the split at each of `THRESHOLDS`; empty of several classes.
        calibration: of the pixels' probabilities of foreground at the training size.
    """

    threshold: float | None
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
    """The probabilities for each image of a split, in the order of the records.

    Args:
        batch_size: images at a time; the strategy's number of replicas divides it.
        tta: test-time augmentation; see `seg.symmetries`.

    Yields:
        of foreground, `(image_size, image_size)` float32 in [0, 1]; of several classes, `(image_size, image_size,
        1 + classes)`, background first. One image at a time: memory is bounded by the batch.
    """
    lone = model.output_shape[-1] == 1

    def probability(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor]:
        found = []
        for swapped, axes in symmetries(tta):
            seen = tf.reverse(tf.transpose(images, (0, 2, 1, 3)) if swapped else images, axes)
            logits = model(seen, training=False)
            seen = tf.reverse(tf.sigmoid(logits) if lone else tf.nn.softmax(logits), axes)
            found.append(tf.transpose(seen, (0, 2, 1, 3)) if swapped else seen)
        mean = tf.add_n(found)
        return ((mean[..., 0] if lone else mean) / len(found),)

    for (batch,) in EveryImage(probability, evaluation_dataset(manifest, split, batch_size), strategy):
        yield from batch


def threshold_curve(
    model: keras.Model,
    manifest: Manifest,
    split: str,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    tta: str = "none",
    largest_component: str = "no",
) -> tuple[float, ...]:
    """The mean Dice per image of a split, at the training size, at each of `THRESHOLDS`; for one class."""
    total = np.zeros(len(THRESHOLDS))
    predicted = predict_split(model, manifest, split, batch_size, strategy, tta)
    for probability, record in zip(predicted, manifest.records(split), strict=True):
        total += dice_at_thresholds(record[..., 3], probability, largest_component)
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
    threshold: float | None,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    tta: str = "none",
    largest_component: str = "no",
) -> Evaluation:
    """Scores every image of a split.

    Args:
        threshold: foreground is where the probability is at least this; from `tune_threshold` on another split. None of
            several classes.
        batch_size, tta: as in `predict_split`.
        largest_component: as `seg.decision.decide` has it.
    """
    several = len(manifest.classes) > 1

    def decided(probability: np.ndarray) -> np.ndarray:
        return decide(probability, threshold, largest_component)

    images = []
    curve = np.zeros(len(THRESHOLDS))
    calibration = Calibration()
    predicted = predict_split(model, manifest, split, batch_size, strategy, tta)
    rows = zip(predicted, manifest.records(split), manifest.examples(split), strict=True)
    for index, (probability, record, example) in enumerate(rows):
        counts = count_classes(record[None, ..., 3], decided(probability)[None], len(manifest.classes))
        if several:
            calibration.add(record[..., 3], 1 - probability[..., 0])
        else:
            curve += dice_at_thresholds(record[..., 3], probability, largest_component)
            calibration.add(record[..., 3], probability)
        true_positive, false_positive, false_negative = counts[0].sum(axis=0).tolist()
        images.append(
            ImageScore(
                index=index,
                file_name=example.file_name,
                dice=float(mean_class_dice(counts)[0]),
                dice_own_size=_dice_own_size(decided, probability, example),
                iou=float(mean_class_iou(counts)[0]),
                true_positive=true_positive,
                false_positive=false_positive,
                false_negative=false_negative,
                group=example.group or "",
                class_dice=tuple(class_dice(counts)[0].tolist()) if several else (),
            )
        )
    return Evaluation(
        threshold=threshold,
        examples=len(images),
        empty=sum(not image.foreground for image in images),
        scores=_scores(images) | _class_scores(images, manifest.classes),
        images=tuple(images),
        threshold_curve=() if several else tuple((curve / len(images)).tolist()),
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


def _class_scores(images: list[ImageScore], classes: Sequence[str]) -> dict[str, Interval]:
    """The Dice of each of several classes; left out where no image has it or got it."""
    scores = {}
    for place, name in enumerate(score_names(classes)):
        concerned = [image for image in images if image.class_dice and not math.isnan(image.class_dice[place])]
        if concerned:
            scores[name] = _mean(concerned, [image.class_dice[place] for image in concerned])
    return scores


def _mean(images: list[ImageScore], values: list[float]) -> Interval:
    return bootstrap_mean(values, groups=groups_of(images))


def _dice_own_size(decided: Callable[[np.ndarray], np.ndarray], probability: np.ndarray, example: Example) -> float:
    mask = own_mask(example)
    prediction = decided(resize_probability(probability, example.height, example.width))
    return float(hard_dice(mask[None], prediction[None], max(1, len(example.classes)))[0])
