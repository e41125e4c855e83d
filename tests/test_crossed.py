"""The mean of a table of seeds × images: estimates worked out by hand, and how often its interval is right."""

import numpy as np
import pytest

from seg.crossed import CrossedMean, Variances, by_group, standard_error
from seg.errors import UserError


def drawn(
    generator: np.random.Generator, seeds: int, units: int, *, unit: float, seed: float, noise: float
) -> np.ndarray:
    """A table with true mean 0 and these standard deviations."""
    return (
        generator.normal(0, unit, (1, units))
        + generator.normal(0, seed, (seeds, 1))
        + generator.normal(0, noise, (seeds, units))
    )


def test_components_by_hand():
    # Rows 1 3 / 2 8: mean 3.5; units 1.5 5.5; seeds 2 5; what is left: ±(1 − 1.5 − 2 + 3.5) = ±1.
    found = CrossedMean.of(np.array([[1.0, 3.0], [2.0, 8.0]]))
    # MS_unit = 2 · (2² + 2²) / 1 = 16, MS_seed = 2 · (1.5² + 1.5²) / 1 = 9, MS_noise = 4 · 1² / 1 = 4.
    assert found.mean == 3.5
    assert found.variances == Variances(unit=(16 - 4) / 2, seed=(9 - 4) / 2, noise=4)
    assert (found.seed_part, found.unit_part) == (9 / 4, (16 - 4) / 4)


def test_without_image_effects_it_is_students_t_of_the_seeds():
    # Seeds' means 1, 2, 3 and nothing else: 2 ± 4.303 · 1/√3 (t with 2 degrees of freedom), and P(|t| > 2·√3) = 0.0742.
    found = CrossedMean.of(np.repeat([[1.0], [2.0], [3.0]], 5, axis=1))
    assert found.interval().low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert found.chance() == pytest.approx(0.0742, abs=1e-4)


def test_without_seed_effects_it_is_students_t_of_the_images():
    # Images 0, 2, 4, the same for each seed: 2 ± 4.303 · 2/√3.
    found = CrossedMean.of(np.repeat([[0.0, 2.0, 4.0]], 6, axis=0))
    assert found.interval().high == pytest.approx(2 + 4.303 * 2 / 3**0.5, abs=1e-2)


def test_nothing_varies():
    zero, one = CrossedMean.of(np.zeros((3, 4))), CrossedMean.of(np.ones((3, 4)))
    assert (zero.chance(), one.chance()) == (1.0, 0.0)
    assert (one.interval().low, one.interval().high) == (1.0, 1.0)
    assert zero.more_units_needed(0.05) is None
    assert one.more_units_needed(0.05) == 0


def test_the_chance_agrees_with_the_interval():
    table = drawn(np.random.default_rng(0), 3, 40, unit=0.1, seed=0.02, noise=0.1)
    found = CrossedMean.of(table - table.mean() + 0.05)
    edge = found.interval(1 - found.chance())
    assert edge.low == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("unit", "seed", "noise"), [(0.1, 0.0, 0.1), (0.1, 0.01, 0.1), (0.1, 0.03, 0.1), (0.0, 0.02, 0.1), (0.2, 0.01, 0.1)]
)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_true_mean_of_0_is_denied_in_at_most_5_percent(seeds, unit, seed, noise):
    generator = np.random.default_rng(seeds)
    tables = (drawn(generator, seeds, 100, unit=unit, seed=seed, noise=noise) for _ in range(400))
    # 5 % of 400 are 20, and a test that denies in exactly 5 % goes beyond 30 with a probability of 1 %.
    assert sum(CrossedMean.of(table).chance() <= 0.05 for table in tables) <= 30


def test_an_interval_of_images_alone_would_deny_it_far_too_often():
    # What the method is for: the t test of the images' means over three seeds, under a seed effect.
    generator = np.random.default_rng(0)
    denied = 0
    for _ in range(200):
        images = drawn(generator, 3, 100, unit=0.1, seed=0.03, noise=0.1).mean(axis=0)
        denied += abs(images.mean()) > 1.98 * images.std(ddof=1) / 10
    assert denied > 40


def test_more_images_where_seeds_agree_and_more_seeds_where_they_do_not():
    generator = np.random.default_rng(2)
    images = CrossedMean.of(0.02 + drawn(generator, 3, 50, unit=0.2, seed=0.0, noise=0.05))
    seeds = CrossedMean.of(drawn(generator, 4, 2000, unit=0.02, seed=0.05, noise=0.02) - 0.04)
    assert images.more_seeds_needed(0.05) is None
    assert 100 < images.more_units_needed(0.05) < 10_000
    assert seeds.more_units_needed(0.05) is None
    assert 2 < seeds.more_seeds_needed(0.05) < 200


def test_what_is_needed_is_enough():
    # With so many images, a difference of 0.02 is found in about 80 of 100 repetitions.
    generator = np.random.default_rng(5)
    deviations = {"unit": 0.1, "seed": 0.0, "noise": 0.1}
    first = drawn(generator, 3, 100, **deviations)
    found = CrossedMean.of(first - first.mean() + 0.02)
    images = 100 + found.more_units_needed(0.05)
    tables = (0.02 + drawn(generator, 3, images, **deviations) for _ in range(200))
    assert 130 <= sum(CrossedMean.of(table).chance() <= 0.05 for table in tables) <= 195


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_seed_or_one_image_is_refused(shape):
    with pytest.raises(UserError, match="two of each at least, got"):
        CrossedMean.of(np.zeros(shape))


def test_groups_keep_the_means_and_are_one_unit_each():
    table = np.array([[1.0, 1.0, 4.0], [3.0, 3.0, 6.0]])
    grouped = by_group(table, ["a", "a", "b"])
    # Mean 3; sums of deviations: a −4 and 0, b 1 and 3; times 2 groups / 3 images.
    assert grouped == pytest.approx(np.array([[3 - 8 / 3, 3 + 2 / 3], [3.0, 5.0]]))
    assert grouped.mean(axis=1) == pytest.approx(table.mean(axis=1))
    assert by_group(table, ["a", "b", "c"]) == pytest.approx(table)
    assert by_group(table, None) is table


def test_copies_in_a_group_add_nothing():
    table = drawn(np.random.default_rng(3), 3, 20, unit=0.1, seed=0.01, noise=0.1)
    copied = by_group(np.repeat(table, 7, axis=1), [str(index // 7) for index in range(140)])
    assert CrossedMean.of(copied).interval().low == pytest.approx(CrossedMean.of(table).interval().low)


def test_other_groups_are_refused():
    with pytest.raises(UserError, match="the group of each of the 3 images, got 2"):
        by_group(np.zeros((2, 3)), ["a", "b"])


def test_standard_error_by_hand():
    # Of 1, 0, 1, 0: variance 4 · 0.25 / 3 = 1/3, of the mean a quarter of that.
    assert standard_error(np.array([[1.0, 0.0, 1.0, 0.0]]), None) == pytest.approx((1 / 12) ** 0.5)
    # In two groups, of mean 1 and 0: variance 0.5, of the mean half of that. Images alone would say 0.289.
    assert standard_error(np.array([[1.0, 0.0, 1.0, 0.0]]), ["a", "b", "a", "b"]) == pytest.approx(0.5)
    # Groups of 3 and 1 image, of mean 1 and 0: residuals 3 · (1 - 0.75) = 0.75 and -0.75, doubled and by 4 images
    # 0.375 and -0.375: variance 0.28125, of the mean half of that.
    assert standard_error(np.array([[1.0, 1.0, 1.0, 0.0]]), ["a", "a", "a", "b"]) == pytest.approx(0.375)


def test_standard_error_over_seeds_by_hand():
    # Means: 0.6 and 0.4 of the seeds, 0.7 and 0.3 of the images, nothing left over. MS(seeds) = 2 · 0.02 and
    # MS(images) = 2 · 0.08, each over S · I = 4: 0.01 + 0.04. One seed alone would have 0.2 for 0.2236.
    table = np.array([[0.8, 0.4], [0.6, 0.2]])
    assert standard_error(table, None) == pytest.approx(0.05**0.5)
    assert standard_error(table[:1], None) == pytest.approx(0.2)


@pytest.mark.parametrize(("scores", "groups"), [([0.5], None), ([0.5, 0.7], ["a", "a"])])
def test_no_standard_error_of_one_unit(scores, groups):
    with pytest.raises(UserError, match="a standard error needs two images or groups of images at least, got 1"):
        standard_error(np.array([scores]), groups)
