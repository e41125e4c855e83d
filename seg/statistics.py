"""How sure a mean over images is: percentile bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg.errors import UserError

# Bounds the memory of the resampled values to 32 MB, however many images there are.
_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it: `low <= mean <= high` but for very skewed values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.floating],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """The mean of per-image values with its percentile bootstrap interval (Efron, 1979).

    Args:
        values: shape (images,), one finite number per image.
        seed: of the resampling; equal seeds give equal intervals.
        level: share of the bootstrap means inside the interval, in (0, 1).
        resamples: bootstrap samples, each as large as `values`.

    Raises:
        UserError: if there is no value, if one of them is not finite, or if `level` or `resamples` is out of range.
    """
    observed = np.asarray(values, dtype=np.float64)
    if observed.ndim != 1 or observed.size == 0:
        raise UserError(f"bootstrap_mean needs one value per image, got an array of shape {observed.shape}.")
    if not np.isfinite(observed).all():
        count = int((~np.isfinite(observed)).sum())
        raise UserError(
            f"bootstrap_mean needs finite values, got {count} of {observed.size} NaN or infinite; drop them."
        )
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, got {level}; use 0.95.")
    if resamples < 1:
        raise UserError(f"resamples must be at least 1, got {resamples}; use 2000.")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _DRAWS_AT_ONCE // observed.size)
    for start in range(0, resamples, rows):
        block = means[start : start + rows]
        block[:] = observed[generator.integers(observed.size, size=(block.size, observed.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(observed.mean()), low=float(low), high=float(high))
