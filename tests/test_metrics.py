import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg.metrics import count_pixels, dice_per_image, dice_pooled, hard_dice, iou_per_image

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


@given(
    arrays(np.uint8, (2, 3, 3), elements=st.sampled_from([0, 1, 255])),
    arrays(np.uint8, (2, 3, 3), elements=st.sampled_from([0, 1])),
)
def test_scores_lie_between_0_and_1_and_dice_is_the_kinder_one(masks: np.ndarray, predictions: np.ndarray) -> None:
    counts = count_pixels(masks, predictions)
    dice, iou = dice_per_image(counts), iou_per_image(counts)
    assert np.all((iou >= 0) & (iou <= dice) & (dice <= 1))
    np.testing.assert_array_equal(counts[:, 0] + counts[:, 2], (masks == 1).sum((1, 2)))
