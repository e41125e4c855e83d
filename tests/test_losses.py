import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seg.config import LOSSES
from seg.errors import UserError
from seg.losses import (
    batch_dice,
    bce,
    bce_dice,
    dice,
    focal_tversky,
    get_loss,
    mean_over_outputs,
    validation_loss,
)

SURE = 50.0  # a logit whose probability is 1 in float32


def image(*rows: list[float]) -> np.ndarray:
    """One image, (1, height, width, 1)."""
    return np.array(rows, np.float32)[None, ..., None]


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_one_float32_value_per_image(self, name: str) -> None:
        values = get_loss(name)(tf.zeros((3, 4, 4, 1)), tf.zeros((3, 4, 4, 1)))
        assert values.shape == (3,)
        assert values.dtype == tf.float32

    def test_each_image_counts_for_itself_in_validation(self, name: str) -> None:
        random = np.random.default_rng(0)
        masks = random.integers(0, 2, (3, 4, 4, 1)).astype(np.float32)
        logits = random.normal(size=(3, 4, 4, 1)).astype(np.float32)
        together = validation_loss(name)(masks, logits)
        alone = [validation_loss(name)(masks[index : index + 1], logits[index : index + 1])[0] for index in range(3)]
        np.testing.assert_allclose(together, alone, rtol=1e-6)

    def test_a_perfect_prediction_costs_nothing(self, name: str) -> None:
        loss = get_loss(name)(image([0, 1], [0, 0]), image([-SURE, SURE], [-SURE, -SURE]))
        np.testing.assert_allclose(loss, [0.0], atol=1e-6)

    def test_an_empty_image_predicted_empty_costs_nothing(self, name: str) -> None:
        np.testing.assert_allclose(get_loss(name)(image([0, 0]), image([-SURE, -SURE])), [0.0], atol=1e-6)

    def test_ignored_pixels_have_neither_value_nor_gradient(self, name: str) -> None:
        logits = tf.Variable(image([0.3, -0.7], [1.5, 9.0]))
        with tf.GradientTape() as tape:
            with_ignored = get_loss(name)(image([0, 1], [1, 255]), logits)
        gradient = tape.gradient(with_ignored, logits).numpy()[0, ..., 0]
        assert gradient[1, 1] == 0
        assert np.all(gradient.ravel()[:3] != 0)
        np.testing.assert_allclose(with_ignored, get_loss(name)(image([0, 1, 1]), image([0.3, -0.7, 1.5])), rtol=1e-6)

    def test_an_image_that_is_all_ignored_costs_nothing(self, name: str) -> None:
        np.testing.assert_allclose(get_loss(name)(image([255, 255]), image([3.0, -3.0])), [0.0])

    def test_an_empty_image_has_a_gradient(self, name: str) -> None:
        logits = tf.Variable(image([0.0, 0.0]))
        with tf.GradientTape() as tape:
            loss = get_loss(name)(image([0, 0]), logits)
        assert np.all(tape.gradient(loss, logits).numpy() > 0)

    def test_half_precision_logits_are_computed_in_float32(self, name: str) -> None:
        # 4096 probabilities of 0.5 sum to 2048; bfloat16 knows no integer between 256 and 258.
        masks = np.zeros((1, 64, 64, 1), np.float32)
        masks[0, :3] = 1
        logits = np.zeros((1, 64, 64, 1), np.float32)
        half = get_loss(name)(masks, tf.cast(logits, tf.bfloat16))
        assert half.dtype == tf.float32
        np.testing.assert_array_equal(half, get_loss(name)(masks, logits))

    def test_wild_logits_stay_finite(self, name: str) -> None:
        assert np.all(np.isfinite(get_loss(name)(image([0, 1]), image([1e4, -1e4]))))


def test_bce_by_hand() -> None:
    # Logit 0 is probability 1/2: ln 2 per pixel. Logit ln 3 is 3/4: -ln(3/4) where true, -ln(1/4) where not.
    loss = bce(image([1, 0, 1, 0]), image([0, 0, math.log(3), math.log(3)]))
    expected = (2 * math.log(2) + math.log(4 / 3) + math.log(4)) / 4
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_dice_by_hand() -> None:
    # p = 1/2 everywhere, two of four pixels true: Σpt = 1, Σp = 2, Σt = 2; 1 - (2 + 1) / (4 + 1) = 0.4.
    np.testing.assert_allclose(dice(image([1, 1], [0, 0]), image([0, 0], [0, 0])), [0.4], rtol=1e-6)
    # Nothing there, p = 1/2 in four pixels: 1 - 1 / (2 + 1) = 2/3.
    np.testing.assert_allclose(dice(image([0, 0], [0, 0]), image([0, 0], [0, 0])), [2 / 3], rtol=1e-6)


def test_bce_dice_is_the_sum() -> None:
    np.testing.assert_allclose(bce_dice(image([1, 1], [0, 0]), image([0, 0], [0, 0])), [math.log(2) + 0.4], rtol=1e-6)


def test_an_unknown_loss_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"loss must be one of bce, dice, bce_dice, focal_tversky, batch_dice, got 'focal'\."
    ):
        get_loss("focal")


def test_the_batch_dice_is_that_of_all_pixels_together() -> None:
    masks = np.stack([image([1, 0])[0], image([1, 1])[0]])
    logits = np.stack([image([SURE, SURE])[0], image([SURE, -SURE])[0]])
    # Two of three foreground pixels found, one false: 1 - (2·2 + 1) / (3 + 3 + 1).
    np.testing.assert_allclose(batch_dice(masks, logits), [2 / 7, 2 / 7], rtol=1e-6)


def test_a_missed_pixel_costs_focal_tversky_more_than_a_false_one() -> None:
    masks = image([1, 1, 0, 0])
    missed = focal_tversky(masks, image([SURE, -SURE, -SURE, -SURE]))
    false = focal_tversky(masks, image([SURE, SURE, SURE, -SURE]))
    np.testing.assert_allclose(missed, [(0.7 / 2.7) ** 0.75], rtol=1e-4)
    np.testing.assert_allclose(false, [(0.3 / 3.3) ** 0.75], rtol=1e-4)


def test_focal_tversky_has_a_finite_gradient_where_all_is_right() -> None:
    logits = tf.Variable(image([SURE, -SURE]))
    with tf.GradientTape() as tape:
        loss = focal_tversky(image([1, 0]), logits)
    assert np.all(np.isfinite(tape.gradient(loss, logits)))


CLASSES = 2
"""Of the tests below: three logits per pixel, background first."""


def logits_for(*labels: int) -> np.ndarray:
    """Logits that are sure of these classes, (1, 1, pixels, 3)."""
    return SURE * np.eye(3, dtype=np.float32)[list(labels)][None, None]


def labels(*values: int) -> np.ndarray:
    """The mask of one row of pixels, (1, 1, pixels, 1)."""
    return np.array(values, np.float32)[None, None, :, None]


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLossOfSeveralClasses:
    def test_one_float32_value_per_image(self, name: str) -> None:
        values = get_loss(name)(tf.zeros((3, 4, 4, 1)), tf.zeros((3, 4, 4, 1 + CLASSES)))
        assert values.shape == (3,)
        assert values.dtype == tf.float32

    def test_each_image_counts_for_itself_in_validation(self, name: str) -> None:
        random = np.random.default_rng(0)
        masks = random.choice([0, 1, 2, 255], (3, 4, 4, 1)).astype(np.float32)
        logits = random.normal(size=(3, 4, 4, 1 + CLASSES)).astype(np.float32)
        together = validation_loss(name)(masks, logits)
        alone = [validation_loss(name)(masks[index : index + 1], logits[index : index + 1])[0] for index in range(3)]
        np.testing.assert_allclose(together, alone, rtol=1e-6)

    def test_a_perfect_prediction_costs_nothing(self, name: str) -> None:
        np.testing.assert_allclose(get_loss(name)(labels(0, 1, 2), logits_for(0, 1, 2)), [0.0], atol=1e-6)

    def test_another_class_costs_as_much_as_none(self, name: str) -> None:
        swapped, missed = (get_loss(name)(labels(1, 1, 1), logits_for(*found)) for found in ((2, 2, 2), (0, 0, 0)))
        assert swapped[0] >= missed[0] > 0.2

    def test_ignored_pixels_have_neither_value_nor_gradient(self, name: str) -> None:
        logits = tf.Variable(np.random.default_rng(0).normal(size=(1, 1, 4, 3)).astype(np.float32))
        with tf.GradientTape() as tape:
            with_ignored = get_loss(name)(labels(0, 1, 2, 255), logits)
        gradient = tape.gradient(with_ignored, logits).numpy()[0, 0]
        assert np.all(gradient[3] == 0)
        assert np.all(gradient[:3] != 0)
        np.testing.assert_allclose(with_ignored, get_loss(name)(labels(0, 1, 2), logits[:, :, :3]), rtol=1e-6)

    def test_an_image_that_is_all_ignored_costs_nothing(self, name: str) -> None:
        np.testing.assert_allclose(get_loss(name)(labels(255, 255), logits_for(1, 2)), [0.0])

    def test_half_precision_logits_are_computed_in_float32(self, name: str) -> None:
        masks = np.zeros((1, 64, 64, 1), np.float32)
        masks[0, :3], masks[0, 3:5] = 1, 2
        logits = np.zeros((1, 64, 64, 3), np.float32)
        half = get_loss(name)(masks, tf.cast(logits, tf.bfloat16))
        np.testing.assert_array_equal(half, get_loss(name)(masks, logits))

    def test_wild_logits_stay_finite(self, name: str) -> None:
        wild = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], np.float32)[None, None]
        assert np.all(np.isfinite(get_loss(name)(labels(1, 2), wild)))

    def test_several_outputs_are_compared_one_by_one(self, name: str) -> None:
        first, second = (np.random.default_rng(seed).normal(size=(1, 1, 3, 3)).astype(np.float32) for seed in range(2))
        together = mean_over_outputs(get_loss(name), channels=3)(labels(0, 1, 2), np.concatenate([first, second], -1))
        apart = [get_loss(name)(labels(0, 1, 2), logits)[0] for logits in (first, second)]
        np.testing.assert_allclose(together, [(apart[0] + apart[1]) / 2], rtol=1e-6)


def test_cross_entropy_of_classes_by_hand() -> None:
    # Logits 0, ln 2, ln 3: probabilities 1/6, 2/6 and 3/6; truth is class 1, then class 2, then background.
    logits = np.tile(np.array([0, math.log(2), math.log(3)], np.float32), (1, 1, 3, 1))
    expected = (math.log(3) + math.log(2) + math.log(6)) / 3
    np.testing.assert_allclose(bce(labels(1, 2, 0), logits), [expected], rtol=1e-6)


def test_dice_of_classes_by_hand() -> None:
    # The same probabilities in three pixels of truth 1, 2, 0. Class 1: Σpt = 1/3, Σp = 1, Σt = 1; class 2: 1/2, 3/2, 1.
    logits = np.tile(np.array([0, math.log(2), math.log(3)], np.float32), (1, 1, 3, 1))
    first, second = 1 - (2 / 3 + 1) / (2 + 1), 1 - (1 + 1) / (2.5 + 1)
    np.testing.assert_allclose(dice(labels(1, 2, 0), logits), [(first + second) / 2], rtol=1e-6)


def test_a_class_that_is_not_there_counts_as_an_empty_mask() -> None:
    # Class 1 is found whole. Class 2 is nowhere: predicted nowhere it costs 0, predicted in two pixels 1 - 1 / (2 + 1).
    np.testing.assert_allclose(dice(labels(1, 0, 0), logits_for(1, 0, 0)), [0.0], atol=1e-6)
    np.testing.assert_allclose(dice(labels(1, 0, 0), logits_for(1, 2, 2)), [(0 + 2 / 3) / 2], rtol=1e-5)


def test_the_batch_dice_of_classes_is_that_of_all_pixels_together() -> None:
    masks, logits = np.concatenate([labels(1, 2), labels(1, 1)]), np.concatenate([logits_for(1, 1), logits_for(1, 2)])
    # Class 1: 2 of 3 found, one false: 1 - 5 / 7. Class 2: its one missed, one false: 1 - 1 / 3.
    np.testing.assert_allclose(batch_dice(masks, logits), [(2 / 7 + 2 / 3) / 2] * 2, rtol=1e-5)


def test_focal_tversky_of_classes_is_their_mean() -> None:
    # Class 1: both found. Class 2: one of two missed, of which nothing is false: (1 - 2 / 2.7) ** 0.75.
    loss = focal_tversky(labels(1, 1, 2, 2), logits_for(1, 1, 2, 0))
    np.testing.assert_allclose(loss, [(0.7 / 2.7) ** 0.75 / 2], rtol=1e-3)


@given(
    hnp.arrays(np.float32, (2, 3, 3, 1), elements=st.sampled_from([0.0, 1.0, 255.0])),
    hnp.arrays(np.float32, (2, 3, 3, 1), elements=st.floats(-5, 5, width=32)),
)
@settings(deadline=None, max_examples=30)
def test_one_class_by_softmax_is_the_binary_loss(masks: np.ndarray, logits: np.ndarray) -> None:
    """Background's logit 0 beside a lone one: the softmax of the two is its sigmoid."""
    two = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    for name in LOSSES:
        np.testing.assert_allclose(get_loss(name)(masks, two), get_loss(name)(masks, logits), rtol=1e-3, atol=1e-5)
