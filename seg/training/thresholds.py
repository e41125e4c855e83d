"""Which probability is foreground: Dice at each of a few thresholds, and the best of them. Imports no TensorFlow."""

from collections.abc import Sequence

import numpy as np

from seg.decision import decide
from seg.metrics import hard_dice

THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # 0.05, 0.10, … 0.95


def dice_at_thresholds(mask: np.ndarray, probability: np.ndarray, largest_component: str = "no") -> np.ndarray:
    """Hard Dice of one image at each of `THRESHOLDS`.

    Args:
        mask: `(height, width)`, values 0, 1 and 255 (ignored).
        probability: `(height, width)` in [0, 1].
        largest_component: as `seg.decision.decide` has it.

    Returns:
        `(len(THRESHOLDS),)` float32.
    """
    predictions = np.stack([decide(probability, threshold, largest_component) for threshold in THRESHOLDS])
    return hard_dice(np.broadcast_to(mask, predictions.shape), predictions)


def best_threshold(curve: Sequence[float]) -> float:
    """The one of `THRESHOLDS` with the highest mean Dice; of equals (to six digits), the one nearest to 0.5."""
    pairs = zip(curve, THRESHOLDS, strict=True)
    return max(pairs, key=lambda pair: (round(float(pair[0]), 6), -abs(pair[1] - 0.5)))[1]
