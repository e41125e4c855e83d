"""`seg.comparison`: numbers worked out by hand, and how often equal and unequal arms are told apart."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from seg.comparison import compare_arms, holm, superiority
from seg.errors import UserError


def simulated(
    generator: np.random.Generator, arms: int, seeds: int, images: int, *, of_group: int = 1, seed: float = 0.012
) -> np.ndarray:
    """Scores of equal arms, shape (arms, seeds, images).

    Images are easy or hard for all arms, and easier for one arm than for another (alike in a group); a training turns
    out well or not, as a whole and image by image. The sizes are those of U-Nets on a few hundred small images.
    """
    easy = generator.normal(0.7, 0.2, (1, 1, images))
    suited = np.repeat(generator.normal(0, 0.06, (arms, 1, images // of_group)), of_group, axis=2)
    trained = generator.normal(0, seed, (arms, seeds, 1))
    return easy + suited + trained + generator.normal(0, 0.08, (arms, seeds, images))


@pytest.mark.parametrize(("arms", "seeds", "images"), [(2, 3, 100), (3, 3, 100), (3, 2, 60), (2, 5, 200)])
def test_equal_arms_are_declared_different_in_at_most_5_percent_of_200(arms, seeds, images):
    generator = np.random.default_rng(7)
    declared = 0
    for _ in range(200):
        found = compare_arms(simulated(generator, arms, seeds, images), resamples=10)
        declared += any(pair.different for pair in found.differences)
    assert declared <= 10


def test_equal_arms_on_groups_of_images():
    generator = np.random.default_rng(3)
    groups = [str(index // 5) for index in range(100)]
    declared = 0
    for _ in range(200):
        found = compare_arms(simulated(generator, 2, 3, 100, of_group=5), groups, resamples=10)
        declared += found.decided
    assert declared <= 10


def test_wilcoxon_over_images_alone_would_declare_equal_arms_different():
    # Why it decides nothing here: it takes the luck of three trainings for a property of the arm.
    generator = np.random.default_rng(7)
    declared = 0
    for _ in range(100):
        (pair,) = compare_arms(simulated(generator, 2, 3, 200, seed=0.02), resamples=10).differences
        declared += pair.wilcoxon <= 0.05
    assert declared > 20


@pytest.mark.parametrize(("seeds", "images", "at_least"), [(5, 400, 80), (3, 400, 50)])
def test_a_planted_difference_of_3_percent_is_found(seeds, images, at_least):
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        scores = simulated(generator, 2, seeds, images, seed=0.008)
        scores[1] += 0.03
        (pair,) = compare_arms(scores, resamples=10).differences
        found += pair.different and pair.first == 1
    assert found >= at_least


def test_the_intervals_hold_a_planted_difference():
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        scores = simulated(generator, 2, 3, 100)
        scores[1] += 0.1
        (pair,) = compare_arms(scores, resamples=10).differences
        held += pair.interval.low <= 0.1 <= pair.interval.high
    assert held >= 93


def test_the_arms_and_their_pairs():
    scores = np.array([[[0.2, 0.4], [0.4, 0.6]], [[0.6, 0.8], [0.8, 1.0]], [[0.2, 0.4], [0.4, 0.6]]])
    found = compare_arms(scores)
    assert [arm.images.mean for arm in found.arms] == pytest.approx([0.4, 0.8, 0.4])
    assert found.arms[1].by_seed == pytest.approx((0.7, 0.9))
    assert (found.order, found.best, found.seeds, found.images, found.groups) == ((1, 0, 2), 1, 2, 2, None)
    assert [(pair.first, pair.second) for pair in found.differences] == [(1, 0), (1, 2), (0, 2)]
    lead, _, none = found.differences
    # 0.4 everywhere leaves no doubt; equal arms leave nothing to tell.
    assert (lead.mean, lead.chance, lead.different, lead.superiority) == (pytest.approx(0.4), 0.0, True, 1.0)
    assert (lead.more_images, lead.more_seeds) == (0, 0)
    assert (none.mean, none.chance_of_all, none.wilcoxon, none.superiority) == (0.0, 1.0, 1.0, 0.5)
    assert (none.more_images, none.more_seeds) == (None, None)
    assert found.decided
    with pytest.raises(FrozenInstanceError):
        found.seeds = 3


def test_one_seed_decides_nothing():
    scores = np.zeros((2, 1, 50))
    scores[1] = np.linspace(0.5, 0.9, 50)
    found = compare_arms(scores)
    (pair,) = found.differences
    assert (pair.interval, pair.different, pair.chance_of_all, pair.variances) == (None, False, 1.0, None)
    assert pair.mean == pytest.approx(0.7)
    assert pair.wilcoxon < 0.001
    assert found.arms[1].both is None
    assert not found.decided
    assert found.rivals == (pair,)


def test_wilcoxon_by_hand():
    # Five differences of one sign and different size: 2 of the 2^5 equally likely signs are as extreme.
    scores = np.zeros((2, 2, 5))
    scores[1] = [0.1, 0.2, 0.3, 0.4, 0.5]
    (pair,) = compare_arms(scores).differences
    assert pair.wilcoxon == pytest.approx(2 / 32)


def test_wilcoxon_takes_a_group_for_one():
    scores = np.zeros((2, 2, 10))
    scores[1] = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 2)
    found = compare_arms(scores, [name for name in "abcde" for _ in range(2)])
    assert found.differences[0].wilcoxon == pytest.approx(2 / 32)
    assert found.groups == 5


def test_needed_images_are_told_in_images_where_groups_were_drawn():
    generator = np.random.default_rng(2)
    grouped = simulated(generator, 2, 3, 100, of_group=5, seed=0.0)
    grouped[1] += 0.01
    groups = [str(index // 5) for index in range(100)]
    (pair,) = compare_arms(grouped, groups).differences
    assert not pair.different
    assert pair.more_images > 0
    assert pair.more_images % 5 == 0


def test_holm_by_hand():
    # 0.01 · 3, then 0.02 · 2, then 0.04 · 1 raised to the one before it.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_superiority_by_hand():
    assert superiority(np.array([1.0, 0.5, 0.0, 0.7]), np.array([0.0, 0.5, 1.0, 0.6])) == (2 + 0.5) / 4


def test_the_sum_of_pairs_with_one_arm_is_none():
    found = compare_arms(np.full((1, 2, 3), 0.5))
    assert (found.differences, found.decided, found.arms[0].images.mean) == ((), False, 0.5)


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(UserError, match="one per arm, seed and image, got an array of shape"):
        compare_arms(np.zeros(shape))


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="finite, got 1 that are not"):
        compare_arms(np.array([[[0.1, np.nan]]]))
