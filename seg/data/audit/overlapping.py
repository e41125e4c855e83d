"""Which annotations of one image lie over an earlier one; pairs that cannot are never compared pixel by pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as pycoco

from seg.data.audit.context import Labelled
from seg.data.masks import rasterise

_SAME = 0.9  # intersection over union
_TOUCHING = 0.02  # the same, below which outlines just share an edge
_BLOCK = 16  # regions compared at once


def overlapping(shapes: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """The annotations drawn over an earlier one of the same shape, and the others that overlap an earlier one.

    Each is compared with the earlier ones that may overlap it so much, likely ones first, until one does: a matrix of
    all pairs would take a gigabyte for ten thousand.

    Args:
        shapes: of one image, none empty.
    """
    encoded = [_encoded(shape) for shape in shapes]
    areas = np.array([shape.area for shape in shapes], float)
    left, top, width, height = np.array([shape.box for shape in shapes], float).reshape(-1, 4).T.copy()
    right, bottom = left + width, top + height
    twice, others = [], []
    for index, shape in enumerate(shapes):
        near = np.flatnonzero((left[:index] < right[index]) & (right[:index] > left[index]))
        wide = np.minimum(right[near], right[index]) - np.maximum(left[near], left[index])
        high = np.minimum(bottom[near], bottom[index]) - np.maximum(top[near], top[index])
        # The intersection is at most either area and what the boxes share; the union at least the larger area.
        shared = np.minimum(np.minimum(areas[near], areas[index]), wide * np.maximum(high, 0))
        most = shared / np.maximum(areas[near], areas[index])
        if _reaches(_SAME, most, near, encoded, index):
            twice.append(shape)
        elif _reaches(_TOUCHING, most, near, encoded, index):
            others.append(shape)
    return twice, others


def _encoded(shape: Labelled) -> dict[str, Any]:
    height, width = shape.image.height, shape.image.width
    return {"size": [height, width], "counts": rasterise([shape.annotation.segmentation], height, width)}


def _reaches(level: float, most: np.ndarray, near: np.ndarray, encoded: list[dict[str, Any]], index: int) -> bool:
    """Whether the intersection over union of a region and one near it is above a level; `most` is what it may be."""
    likely = np.flatnonzero(most > level)
    likely = near[likely[np.argsort(-most[likely])]]
    for start in range(0, len(likely), _BLOCK):
        others = [encoded[other] for other in likely[start : start + _BLOCK]]
        if pycoco.iou(others, [encoded[index]], [0]).max() > level:
            return True
    return False
