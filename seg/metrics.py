"""Scores of predicted masks, in NumPy: counts first, then the score. Imports no TensorFlow.

Counts are `(images, 3)` integers: true positive, false positive and false negative pixels of each image; ignored
pixels (mask 255) are in none of them. Empty images follow one rule: nothing there and nothing predicted scores 1,
only one of both empty scores 0.

Of several classes, counts are `(images, classes, 3)`, each class taken for the foreground and all else for background.
A class that is neither in an image's truth nor predicted there has no score in it; the score of an image is the mean
over those that have one, and 1 where none has. Of one class that is the rule above.
"""

from collections.abc import Callable

import numpy as np

from seg.data.manifest import IGNORE


def count_pixels(masks: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """True positive, false positive and false negative pixels of each image.

    Args:
        masks: `(images, ...)`, values 0, 1 and 255 (ignored).
        predictions: the same shape; nonzero where foreground is predicted.

    Returns:
        `(images, 3)` int64.
    """
    masks = masks.reshape(len(masks), -1)
    predicted = predictions.reshape(len(predictions), -1) != 0
    truth, background = masks == 1, masks == 0
    if not np.all(truth | background | (masks == IGNORE)):
        raise ValueError(f"masks must hold 0, 1 and {IGNORE} only, got {np.unique(masks)[:10]}.")
    return np.stack(
        [(truth & predicted).sum(1), (background & predicted).sum(1), (truth & ~predicted).sum(1)],
        axis=1,
        dtype=np.int64,
    )


def dice_per_image(counts: np.ndarray) -> np.ndarray:
    """2·TP / (2·TP + FP + FN) of each image, `(images,)` float64."""
    true_positive, false_positive, false_negative = np.asarray(counts, np.float64).T
    return _fraction(2 * true_positive, 2 * true_positive + false_positive + false_negative)


def iou_per_image(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) of each image, `(images,)` float64."""
    true_positive, false_positive, false_negative = np.asarray(counts, np.float64).T
    return _fraction(true_positive, true_positive + false_positive + false_negative)


def dice_pooled(counts: np.ndarray) -> float:
    """Dice of all images' pixels counted together, as if they were one image."""
    return float(dice_per_image(np.sum(counts, axis=0, keepdims=True))[0])


def hard_dice(masks: np.ndarray, predictions: np.ndarray, classes: int = 1) -> np.ndarray:
    """Dice of each image; arguments as `count_pixels` or, for several classes, `count_classes`; `(images,)` float32."""
    if classes > 1:
        return mean_class_dice(count_classes(masks, predictions, classes)).astype(np.float32)
    return dice_per_image(count_pixels(masks, predictions)).astype(np.float32)


def count_classes(masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """True positive, false positive and false negative pixels of each image and class.

    Args:
        masks: `(images, ...)`, values 0, the classes from 1 on, and 255 (ignored).
        predictions: the same shape; 0 or a class.
        classes: how many there are.

    Returns:
        `(images, classes, 3)` int64.
    """
    masks, predicted = masks.reshape(len(masks), -1), predictions.reshape(len(predictions), -1)
    if np.any((masks > classes) & (masks != IGNORE)):
        raise ValueError(f"masks must hold 0 to {classes} and {IGNORE} only, got {np.unique(masks)[:10]}.")
    known = masks != IGNORE
    kinds = [
        [(true & found).sum(1), (known & ~true & found).sum(1), (true & ~found).sum(1)]
        for true, found in ((masks == label, predicted == label) for label in range(1, classes + 1))
    ]
    return np.moveaxis(np.array(kinds, np.int64), 2, 0)


def class_dice(counts: np.ndarray) -> np.ndarray:
    """Dice of each class of each image, `(images, classes)` float64; NaN where it has none."""
    return _of_classes(dice_per_image, counts)


def mean_class_dice(counts: np.ndarray) -> np.ndarray:
    """Dice of each image, the mean over its classes, `(images,)` float64."""
    return mean_over_classes(class_dice(counts))


def mean_class_iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each image, the mean over its classes, `(images,)` float64."""
    return mean_over_classes(_of_classes(iou_per_image, counts))


def mean_over_classes(scores: np.ndarray) -> np.ndarray:
    """The mean of `(…, classes)` over those that are not NaN; 1 where all are."""
    present = ~np.isnan(scores)
    number = present.sum(-1, dtype=scores.dtype)
    return np.where(number > 0, np.where(present, scores, 0.0).sum(-1) / np.maximum(number, 1), 1.0)


def _of_classes(score: Callable[[np.ndarray], np.ndarray], counts: np.ndarray) -> np.ndarray:
    flat = score(counts.reshape(-1, 3))
    return np.where(counts.any(-1), flat.reshape(counts.shape[:-1]), np.nan)


def _fraction(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 1 where both masks are empty (0 / 0)."""
    return np.divide(numerator, denominator, out=np.ones_like(numerator), where=denominator > 0)
