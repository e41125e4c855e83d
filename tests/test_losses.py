import math

import numpy as np
import pytest
import tensorflow as tf

from seg.config import LOSSES
from seg.errors import UserError
from seg.losses import batch_dice, bce, bce_dice, dice, focal_tversky, get_loss, validation_loss

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
