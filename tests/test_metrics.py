import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg.metrics import (
    class_dice,
    count_classes,
    count_pixels,
    dice_per_image,
    dice_pooled,
    hard_dice,
    iou_per_image,
    mean_class_dice,
    mean_class_iou,
)

MASKS = np.array(
    [
        [[1, 1, 0], [0, 0, 255]],  # one of two found, one too many: TP 1, FP 1, FN 1
        [[0, 0, 0], [0, 0, 0]],  # nothing there, nothing predicted
        [[0, 0, 0], [0, 0, 0]],  # nothing there, one predicted
        [[1, 1, 1], [0, 0, 0]],  # three there, nothing predicted
    ],
    np.uint8,
)
PREDICTIONS = np.array(
    [
        [[1, 0, 1], [0, 0, 1]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ],
    np.uint8,
)
COUNTS = [[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 3]]


def test_counts_by_hand() -> None:
    np.testing.assert_array_equal(count_pixels(MASKS, PREDICTIONS), COUNTS)


def test_a_trailing_channel_changes_nothing() -> None:
    np.testing.assert_array_equal(count_pixels(MASKS[..., None], PREDICTIONS[..., None]), COUNTS)


def test_dice_by_hand() -> None:
    np.testing.assert_array_equal(dice_per_image(np.array(COUNTS)), [0.5, 1, 0, 0])
    scores = hard_dice(MASKS, PREDICTIONS)
    np.testing.assert_array_equal(scores, [0.5, 1, 0, 0])
    assert scores.dtype == np.float32


def test_iou_by_hand() -> None:
    np.testing.assert_allclose(iou_per_image(np.array(COUNTS)), [1 / 3, 1, 0, 0])


def test_pooled_dice_by_hand() -> None:
    # TP 1, FP 2, FN 4 over all images: 2 / 8.
    assert dice_pooled(np.array(COUNTS)) == 0.25
    assert dice_pooled(np.zeros((2, 3), int)) == 1


def test_another_mask_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masks must hold 0, 1 and 255 only, got \[0 7\]"):
        count_pixels(np.array([[0, 7]]), np.array([[0, 0]]))


# Truth, then prediction, of three images of two classes.
SEVERAL = np.array([[[1, 1, 2], [0, 0, 255]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]], np.uint8)
FOUND = np.array([[[1, 2, 2], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 2], [0, 0, 0]]], np.uint8)


def test_counts_of_classes_by_hand() -> None:
    expected = [[[1, 1, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]]
    np.testing.assert_array_equal(count_classes(SEVERAL, FOUND, 2), expected)


def test_dice_of_classes_by_hand() -> None:
    counts = count_classes(SEVERAL, FOUND, 2)
    # A class that is neither there nor predicted has no Dice; one that is only predicted has 0.
    np.testing.assert_allclose(class_dice(counts), [[1 / 2, 2 / 3], [np.nan, np.nan], [1, 0]])
    np.testing.assert_allclose(mean_class_dice(counts), [(1 / 2 + 2 / 3) / 2, 1, 1 / 2])
    np.testing.assert_allclose(mean_class_iou(counts), [(1 / 3 + 1 / 2) / 2, 1, 1 / 2])
    np.testing.assert_allclose(hard_dice(SEVERAL, FOUND, 2), [7 / 12, 1, 1 / 2], rtol=1e-6)


def test_a_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masks must hold 0 to 2 and 255 only, got \[0 3\]"):
        count_classes(np.array([[0, 3]]), np.array([[0, 0]]), 2)


@given(
    arrays(np.uint8, (4, 3, 3), elements=st.sampled_from([0, 1, 255])),
    arrays(np.uint8, (4, 3, 3), elements=st.sampled_from([0, 1])),
)
def test_one_class_is_the_binary_score(masks: np.ndarray, predictions: np.ndarray) -> None:
    several, binary = count_classes(masks, predictions, 1), count_pixels(masks, predictions)
    np.testing.assert_array_equal(several[:, 0], binary)
    np.testing.assert_array_equal(mean_class_dice(several), dice_per_image(binary))
    np.testing.assert_array_equal(mean_class_iou(several), iou_per_image(binary))


@given(
    arrays(np.uint8, (2, 3, 3), elements=st.sampled_from([0, 1, 255])),
    arrays(np.uint8, (2, 3, 3), elements=st.sampled_from([0, 1])),
)
def test_scores_lie_between_0_and_1_and_dice_is_the_kinder_one(masks: np.ndarray, predictions: np.ndarray) -> None:
    counts = count_pixels(masks, predictions)
    dice, iou = dice_per_image(counts), iou_per_image(counts)
    assert np.all((iou >= 0) & (iou <= dice) & (dice <= 1))
    np.testing.assert_array_equal(counts[:, 0] + counts[:, 2], (masks == 1).sum((1, 2)))
