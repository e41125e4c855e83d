"""How far probabilities can be taken at their word: reliability of pixels, in bins. Imports no TensorFlow.

Pixels are collected in bins by their predicted probability. In a calibrated model the share of foreground among the
pixels of a bin is their mean probability. The expected calibration error is the mean distance of the two, each bin
weighing as many pixels as it holds (Naeini et al., 2015; Guo et al., 2017, with the probability of foreground in the
place of the confidence). Where most pixels are obvious background it is small for any sane model: compare it between
models on one test set, not between datasets, and look at the bins.
"""

from dataclasses import dataclass

import numpy as np

from seg.data.manifest import IGNORE

BINS = 10  # of equal width


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The pixels whose probability lies in `[low, high)`, in the last bin `[low, 1]`.

    Attributes:
        low, high: the bin's edges.
        pixels: how many there are.
        probability: their mean probability; None where there are none.
        foreground: the share of them that is foreground; None where there are none.
    """

    low: float
    high: float
    pixels: int
    probability: float | None
    foreground: float | None


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The calibration of a model on a split.

    Attributes:
        bins: `BINS` of them, by probability.
        expected_error: the expected calibration error, in [0, 1]; 0 where no pixel was scored.
    """

    bins: tuple[ReliabilityBin, ...]
    expected_error: float


class Calibration:
    """Collects pixels image by image; memory does not grow with their number."""

    def __init__(self) -> None:
        self._pixels = np.zeros(BINS, np.int64)
        self._probability = np.zeros(BINS)
        self._foreground = np.zeros(BINS, np.int64)

    def add(self, mask: np.ndarray, probability: np.ndarray) -> None:
        """Adds an image's pixels but for the ignored ones.

        Args:
            mask: `(height, width)`, values 0, 1 (or 1, 2, …: any class is foreground) and 255 (ignored).
            probability: of foreground, `(height, width)` in [0, 1].
        """
        scored = mask != IGNORE
        found = probability[scored].astype(np.float64)
        places = np.minimum((found * BINS).astype(np.int64), BINS - 1)
        self._pixels += np.bincount(places, minlength=BINS)
        self._probability += np.bincount(places, weights=found, minlength=BINS)
        self._foreground += np.bincount(places[mask[scored] != 0], minlength=BINS)

    def result(self) -> Reliability:
        """What all images so far say."""
        bins = tuple(
            ReliabilityBin(
                low=place / BINS,
                high=(place + 1) / BINS,
                pixels=int(pixels),
                probability=float(probability / pixels) if pixels else None,
                foreground=float(foreground / pixels) if pixels else None,
            )
            for place, (pixels, probability, foreground) in enumerate(
                zip(self._pixels, self._probability, self._foreground, strict=True)
            )
        )
        distance = np.abs(self._probability - self._foreground).sum()
        return Reliability(bins=bins, expected_error=float(distance / max(1, self._pixels.sum())))
