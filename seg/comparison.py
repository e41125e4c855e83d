"""Which of several arms scores higher, and how sure that is: every arm trained with the same seeds, on the same images.

What is compared is one score per arm, seed and image. Seeds and images are both drawn at random (`seg.crossed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg.crossed import CrossedMean, Variances, by_group
from seg.errors import UserError
from seg.statistics import Interval, bootstrap_mean

CHANCE = 0.05
"""A difference that equal arms would show more often than this is not called one."""


@dataclass(frozen=True, kw_only=True)
class ArmScore:
    """The mean score of one arm.

    Attributes:
        images: over all seeds and images; the interval is about other images, not about other seeds (bootstrap over
            images, or groups, of each image's mean over the seeds).
        both: the same mean; the interval is about other images and other seeds. None for one seed or one image.
        by_seed: mean over the images, in the order of the seeds.
    """

    images: Interval
    both: Interval | None
    by_seed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher the arm `first` scores than the arm `second` on the same seeds and images.

    Attributes:
        first, second: positions of the arms; the higher mean is the first.
        mean: of the differences over seeds and images.
        interval: about other images and other seeds, for this pair alone; None for one seed or one image.
        chance: probability of such a mean if it were 0 for all images and seeds; 1 where it cannot be told.
        chance_of_all: the same after Holm's correction for all pairs (Holm, 1979).
        different: `chance_of_all` is at most `CHANCE`.
        wilcoxon: p of Wilcoxon's signed-rank test (1945; zeros as Pratt, 1959, treats them) on the images' differences,
            each averaged over the seeds (on groups, where there are some). It knows nothing of seeds: it speaks of
            these trained models, and decides nothing here.
        wilcoxon_of_all: the same after Holm's correction.
        superiority: probability that the first arm scores higher, on a seed and an image drawn at random; ties count
            half (the paired form of Vargha and Delaney, 2000).
        variances: components of the differences; None as `interval`.
        more_images, more_seeds: how many more of the one, with as many of the other, would probably (`POWER` of
            `seg.crossed`) call a difference of this mean different. 0 where it is; None where no number would, or
            nothing can be told.
    """

    first: int
    second: int
    mean: float
    interval: Interval | None
    chance: float
    chance_of_all: float
    different: bool
    wilcoxon: float
    wilcoxon_of_all: float
    superiority: float
    variances: Variances | None
    more_images: int | None
    more_seeds: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the scores of several arms say.

    Attributes:
        arms: in the order that they were given.
        differences: of every pair, the pairs of the best arm first.
        order: positions of the arms, the highest mean first.
        seeds, images: how many of each.
        groups: number of groups that were drawn; None where images were.
    """

    arms: tuple[ArmScore, ...]
    differences: tuple[Difference, ...]
    order: tuple[int, ...]
    seeds: int
    images: int
    groups: int | None

    @property
    def best(self) -> int:
        """Position of the arm with the highest mean."""
        return self.order[0]

    @property
    def rivals(self) -> tuple[Difference, ...]:
        """The differences of the best arm to those that are not told from it, the nearest first."""
        of_best = (pair for pair in self.differences if pair.first == self.best and not pair.different)
        return tuple(sorted(of_best, key=lambda pair: pair.mean))

    @property
    def decided(self) -> bool:
        """The best arm is told from every other one."""
        return len(self.arms) > 1 and not self.rivals


def compare_arms(
    scores: NDArray[np.floating], groups: Sequence[str] | None = None, resamples: int = 2000
) -> Comparison:
    """Compares arms pair by pair.

    Args:
        scores: shape (arms, seeds, images), finite.
        groups: one name per image where images of a group are alike (`seg.training.image_score.groups_of`).
        resamples: of the bootstrap of each arm's mean.

    Raises:
        UserError: if the array has another shape or is not finite, or there are not as many groups as images.
    """
    observed = np.asarray(scores, np.float64)
    if observed.ndim != 3 or 0 in observed.shape:
        raise UserError(f"scores must be one per arm, seed and image, got an array of shape {observed.shape}.")
    if not np.isfinite(observed).all():
        raise UserError(f"scores must be finite, got {int((~np.isfinite(observed)).sum())} that are not.")
    count, seeds, images = observed.shape
    order = sorted(range(count), key=lambda arm: (-observed[arm].mean(), arm))
    pairs = [(one, other) for place, one in enumerate(order) for other in order[place + 1 :]]
    tables = [by_group(observed[one] - observed[other], groups) for one, other in pairs]
    means = [_crossed(table) for table in tables]
    chances = [mean.chance() if mean else 1.0 for mean in means]
    wilcoxons = [_wilcoxon((observed[one] - observed[other]).mean(axis=0), groups) for one, other in pairs]
    differences = [
        _difference(pair, observed, mean, chance, corrected, wilcoxon, wilcoxon_corrected, len(pairs))
        for pair, mean, chance, corrected, wilcoxon, wilcoxon_corrected in zip(
            pairs, means, chances, holm(chances), wilcoxons, holm(wilcoxons), strict=True
        )
    ]
    return Comparison(
        arms=tuple(_arm(table, groups, resamples) for table in observed),
        differences=tuple(differences),
        order=tuple(order),
        seeds=seeds,
        images=images,
        groups=None if groups is None else len(set(groups)),
    )


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's correction (1979): the probabilities that each, or a smaller one, came of chance somewhere among them.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below the one before it.
    """
    corrected, before = [0.0] * len(chances), 0.0
    for place, index in enumerate(sorted(range(len(chances)), key=lambda index: chances[index])):
        before = max(before, min(1.0, chances[index] * (len(chances) - place)))
        corrected[index] = before
    return corrected


def superiority(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Share of the entries in which the first is higher; equal ones count half."""
    return float((first > second).mean() + (first == second).mean() / 2)


def _arm(table: NDArray[np.float64], groups: Sequence[str] | None, resamples: int) -> ArmScore:
    both = _crossed(by_group(table, groups))
    return ArmScore(
        images=bootstrap_mean(table.mean(axis=0), resamples=resamples, groups=groups),
        both=both.interval() if both else None,
        by_seed=tuple(table.mean(axis=1).tolist()),
    )


def _crossed(table: NDArray[np.float64]) -> CrossedMean | None:
    return CrossedMean.of(table) if min(table.shape) > 1 else None


def _difference(
    pair: tuple[int, int],
    scores: NDArray[np.float64],
    found: CrossedMean | None,
    chance: float,
    corrected: float,
    wilcoxon: float,
    wilcoxon_corrected: float,
    pairs: int,
) -> Difference:
    first, second = pair
    different = corrected <= CHANCE
    more_images = more_seeds = 0 if different else None
    if found is not None and not different:
        # Holm's correction asks no pair for more than this.
        more_units, more_seeds = found.more_units_needed(CHANCE / pairs), found.more_seeds_needed(CHANCE / pairs)
        # A group has so many images on average.
        more_images = None if more_units is None else round(more_units * scores.shape[2] / found.units)
    return Difference(
        first=first,
        second=second,
        mean=float((scores[first] - scores[second]).mean()),
        interval=found.interval() if found else None,
        chance=chance,
        chance_of_all=corrected,
        different=different,
        wilcoxon=wilcoxon,
        wilcoxon_of_all=wilcoxon_corrected,
        superiority=superiority(scores[first], scores[second]),
        variances=found.variances if found else None,
        more_images=more_images,
        more_seeds=more_seeds,
    )


def _wilcoxon(differences: NDArray[np.float64], groups: Sequence[str] | None) -> float:
    if groups is not None:
        places = np.unique(np.asarray(groups, dtype=object), return_inverse=True)[1]
        differences = np.bincount(places, weights=differences) / np.bincount(places)
    if not differences.any():
        return 1.0  # SciPy has no answer where nothing differs
    from scipy.stats import wilcoxon  # not above: it takes longer to import than all else of seg but TensorFlow

    return float(wilcoxon(differences, zero_method="pratt").pvalue)
