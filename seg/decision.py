"""From probabilities to a mask: the threshold or the highest class, and what is kept of it.

Travels with the registered model.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.errors import UserError

LARGEST_COMPONENT = ("no", "yes")


def check_largest_component(value: str) -> str:
    """The value itself.

    Raises:
        UserError: if it is none.
    """
    if value not in LARGEST_COMPONENT:
        raise UserError(f"largest_component must be one of {', '.join(LARGEST_COMPONENT)}, got '{value}'.")
    return value


def decide(probability: NDArray[Any], threshold: float | None, largest_component: str = "no") -> NDArray[np.uint8]:
    """The mask of one image.

    Args:
        probability: of foreground, (height, width); or of background and each class, (height, width, 1 + classes).
        threshold: foreground is where the probability is at least this. None, of several classes: the one with the
            highest probability wins, the first of equals.
        largest_component: `yes`: of each class, only its largest connected component stays.

    Returns:
        (height, width) uint8: 0 background, 1 foreground or the class.
    """
    if probability.ndim == 2:
        mask = np.asarray(probability >= threshold).view(np.uint8)
    else:
        mask = probability.argmax(axis=2).astype(np.uint8)
    return keep_largest(mask) if largest_component == "yes" else mask


def keep_largest(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask without all but the largest component of each class; of equally large ones, the first one stays.

    Pixels that touch at a corner belong together (8-connected).
    """
    kept = np.zeros_like(mask)
    for label in np.unique(mask[mask != 0]):
        _, components, stats, _ = cv2.connectedComponentsWithStats((mask == label).view(np.uint8), connectivity=8)
        kept[components == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())] = label  # 0 is all that is not the class
    return kept
