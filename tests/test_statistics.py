import numpy as np
import pytest

from seg import statistics
from seg.errors import UserError
from seg.statistics import Interval, bootstrap_mean, bootstrap_ratio


def test_one_value_leaves_no_doubt():
    assert bootstrap_mean([0.25]) == Interval(0.25, 0.25, 0.25)


def test_constant_values_give_an_interval_of_no_width():
    interval = bootstrap_mean([0.5] * 40)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_interval_of_two_values_is_that_of_their_four_equally_likely_resamples():
    # Resamples of (0, 1): means 0 (1/4), 0.5 (1/2), 1 (1/4). 20 %, for two values widened to the middle 35 %, see only
    # 0.5; 95 % see all.
    assert bootstrap_mean([0.0, 1.0], level=0.2) == Interval(0.5, 0.5, 0.5)
    assert bootstrap_mean([0.0, 1.0], level=0.95) == Interval(0.5, 0.0, 1.0)


def test_interval_agrees_with_the_normal_approximation():
    # 200 zeros and 200 ones: standard error sqrt(0.25 / 400) = 0.025, so 95 % is 0.5 ± 1.96 × 0.025 = 0.451 … 0.549.
    interval = bootstrap_mean([0.0, 1.0] * 200, resamples=4000)
    assert interval.mean == 0.5
    assert interval.low == pytest.approx(0.451, abs=0.005)
    assert interval.high == pytest.approx(0.549, abs=0.005)


def test_the_seed_decides():
    values = np.linspace(0, 1, 30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_intervals_of_few_values_hold_the_mean_as_often_as_they_say():
    """Ten normal values: 95 % intervals that are not widened miss their mean in 108 of these 1000 samples."""
    random = np.random.default_rng(0)
    missed = 0
    for seed in range(1000):
        interval = bootstrap_mean(random.normal(0, 1, 10), seed=seed, resamples=1000)
        missed += not interval.low <= 0 <= interval.high
    assert missed <= 75


def test_a_wider_level_gives_a_wider_interval():
    values = np.linspace(0, 1, 30)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    values = np.linspace(0, 1, 30)
    whole = bootstrap_mean(values)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 100)
    assert bootstrap_mean(values) == whole


def test_reads_as_people_write_it():
    assert str(Interval(0.81234, 0.7, 0.9)) == "0.812 [0.700, 0.900]"


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_refuses_what_is_not_one_value_per_image(values):
    with pytest.raises(UserError, match="one value per image"):
        bootstrap_mean(values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_values_that_are_not_finite(bad):
    with pytest.raises(UserError, match="1 of 3 NaN or infinite"):
        bootstrap_mean([0.1, bad, 0.2])


@pytest.mark.parametrize("level", [0, 1, -0.1])
def test_refuses_a_level_out_of_range(level):
    with pytest.raises(UserError, match="level must lie between 0 and 1"):
        bootstrap_mean([0.1], level=level)


def test_refuses_no_resamples():
    with pytest.raises(UserError, match="resamples must be at least 1"):
        bootstrap_mean([0.1], resamples=0)


def test_groups_are_drawn_whole():
    # Two patients of two equal images each: the resamples are those of the two values (0, 1), not of four.
    grouped = bootstrap_mean([0.0, 0.0, 1.0, 1.0], level=0.2, groups=["a", "a", "b", "b"])
    assert grouped == Interval(0.5, 0.5, 0.5)
    assert bootstrap_mean([0.0, 0.0, 1.0, 1.0], groups=["a", "a", "b", "b"]) == Interval(0.5, 0.0, 1.0)


def test_larger_groups_weigh_more():
    # A draw of a, b: (3 · 0 + 1) / 4; of a, a: 0; of b, b: 1.
    assert bootstrap_mean([0.0, 0.0, 0.0, 1.0], groups=["a", "a", "a", "b"]) == Interval(0.25, 0.0, 1.0)


def test_groups_of_one_image_each_change_nothing():
    values = np.linspace(0, 1, 30)
    assert bootstrap_mean(values, groups=[f"{index:02}" for index in range(30)]) == bootstrap_mean(values)


def test_refuses_groups_of_other_images():
    with pytest.raises(UserError, match="the group of each of the 3 images, got 2 names"):
        bootstrap_mean([0.1, 0.2, 0.3], groups=["a", "b"])


def test_ratio_of_sums():
    # Draws of the two images: (1, 2) twice: 1/2; (0, 2) twice: 0; one each: 1/4.
    assert bootstrap_ratio([1, 0], [2, 2]) == Interval(0.25, 0.0, 0.5)
    assert bootstrap_ratio([0, 0], [0, 0], empty=1.0) == Interval(1.0, 1.0, 1.0)


def test_what_of_an_interval_is_possible():
    assert Interval(0.5, -1.25, 1.5).within(0, 1) == Interval(0.5, 0, 1)
    assert Interval(0.5, 0.25, 0.75).within(0, 1) == Interval(0.5, 0.25, 0.75)
