"""Scores of predicted masks, in NumPy: counts first, then the score. Imports no TensorFlow.

Counts are `(images, 3)` integers: true positive, false positive and false negative pixels of each image; ignored
pixels (mask 255) are in none of them. Empty images follow one rule: nothing there and nothing predicted scores 1,
only one of both empty scores 0.
"""

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


def hard_dice(masks: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Dice of each image; arguments as `count_pixels`, returns `(images,)` float32."""
    return dice_per_image(count_pixels(masks, predictions)).astype(np.float32)


def _fraction(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 1 where both masks are empty (0 / 0)."""
    return np.divide(numerator, denominator, out=np.ones_like(numerator), where=denominator > 0)
