"""From probabilities to masks: thresholds, the highest class, and the largest component of each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seg.decision import check_largest_component, decide, keep_largest
from seg.errors import UserError

PARTS = np.array(
    [
        [1, 0, 0, 0, 2],
        [0, 1, 0, 0, 2],
        [0, 1, 0, 1, 0],
        [0, 0, 0, 1, 0],
        [2, 0, 0, 0, 2],
    ],
    np.uint8,
)


def test_one_class_has_a_threshold() -> None:
    mask = decide(np.array([[0.4, 0.5, 0.6]], np.float32), 0.5)
    assert (mask.tolist(), mask.dtype) == ([[0, 1, 1]], np.uint8)


def test_of_several_classes_the_highest_wins_and_the_first_of_equals() -> None:
    probability = np.array([[[0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.2, 0.4, 0.4], [0.1, 0.2, 0.7]]], np.float32)
    assert decide(probability, None).tolist() == [[1, 0, 1, 2]]


def test_the_largest_component_of_each_class_stays() -> None:
    # Of class 1, three pixels hang together by a corner, and two lie apart; of class 2, two, one and one.
    assert keep_largest(PARTS).tolist() == [
        [1, 0, 0, 0, 2],
        [0, 1, 0, 0, 2],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_of_equally_large_components_the_first_stays() -> None:
    assert keep_largest(np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0]], np.uint8)).tolist() == [[1, 0, 0], [0] * 3, [0] * 3]


def test_an_empty_mask_stays_empty() -> None:
    assert not keep_largest(np.zeros((3, 3), np.uint8)).any()


def test_only_when_asked() -> None:
    probability = np.array([[0.9, 0.1, 0.9, 0.9]], np.float32)
    assert decide(probability, 0.5).tolist() == [[1, 0, 1, 1]]
    assert decide(probability, 0.5, "yes").tolist() == [[0, 0, 1, 1]]


@given(hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, 3)))
@settings(deadline=None)
def test_what_stays_was_there_and_stays_again(mask: np.ndarray) -> None:
    kept = keep_largest(mask)
    assert np.all((kept == mask) | (kept == 0))
    assert set(np.unique(kept)) | {0} == set(np.unique(mask)) | {0}
    np.testing.assert_array_equal(keep_largest(kept), kept)


def test_a_value_that_is_none() -> None:
    assert check_largest_component("yes") == "yes"
    with pytest.raises(UserError, match="largest_component must be one of no, yes, got 'maybe'"):
        check_largest_component("maybe")
