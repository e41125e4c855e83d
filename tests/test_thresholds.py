import numpy as np
import pytest

from seg.training.thresholds import THRESHOLDS, best_threshold, dice_at_thresholds


def test_dice_at_each_threshold() -> None:
    # Probabilities 0.2, 0.6, 0.8 and an ignored 0.9; the 0.6 is background, the other two are foreground.
    curve = dice_at_thresholds(np.array([[1, 0], [1, 255]]), np.array([[0.2, 0.6], [0.8, 0.9]]))
    assert len(curve) == len(THRESHOLDS) == 19
    by_threshold = dict(zip(THRESHOLDS, curve.tolist(), strict=True))
    assert by_threshold[0.1] == pytest.approx(4 / 5)  # both found, one false
    assert by_threshold[0.5] == pytest.approx(2 / 4)  # one found, one false, one missed
    assert by_threshold[0.7] == pytest.approx(2 / 3)  # one found, one missed
    assert by_threshold[0.95] == 0


def test_the_best_of_equals_is_nearest_to_a_half() -> None:
    assert best_threshold([0.5] * 19) == 0.5
    assert best_threshold([0.9, 0.9, *[0.5] * 17]) == 0.1
    assert best_threshold([0.9000001, 0.9, *[0.5] * 17]) == 0.1  # the seventh digit is noise


def test_with_the_largest_component_alone() -> None:
    # At 0.5 the second 0.8, which stands alone, goes: one of one is found, nothing is false.
    curve = dice_at_thresholds(np.array([[1, 1, 0, 0]]), np.array([[0.8, 0.8, 0.2, 0.8]]), "yes")
    by_threshold = dict(zip(THRESHOLDS, curve.tolist(), strict=True))
    assert by_threshold[0.5] == 1
    assert by_threshold[0.1] == pytest.approx(4 / 6)  # all hang together
