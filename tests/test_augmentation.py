"""Each operation alone, eagerly and inside tf.data, on records small enough to work out by hand."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf

from seg.config import AUGMENTATIONS
from seg.data.augmentation import (
    DRAWS,
    augment,
    change_gamma,
    change_light,
    draw,
    flip_left_right,
    flip_up_down,
    move,
    transpose,
)

SIZE = 4
ROWS = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)  # 0 1 2 3 / 4 5 6 7 / …

Operation = Callable[[tf.Tensor], tf.Tensor]


def record(plane: np.ndarray) -> np.ndarray:
    """One batch of one record whose image and mask both show `plane`: they must stay alike."""
    return np.repeat(plane[None, ..., None], 4, axis=-1)


def eagerly(operation: Operation, records: np.ndarray) -> np.ndarray:
    return operation(tf.constant(records)).numpy()


def in_tf_data(operation: Operation, records: np.ndarray) -> np.ndarray:
    (batch,) = tf.data.Dataset.from_tensors(records).map(operation)
    return batch.numpy()


def moved(*, rotation: float = 0.0, zoom: float = 1.0, right: float = 0.0, down: float = 0.0) -> Operation:
    values = {"rotation": rotation, "zoom": zoom, "right": right, "down": down}
    changes = {name: tf.constant([value]) for name, value in values.items()}
    return lambda records: joined(*move(records, **changes))


def joined(images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Records again, of what was taken apart."""
    tf.debugging.assert_equal(images, tf.round(images))
    return tf.concat([tf.cast(images, tf.uint8), tf.cast(masks, tf.uint8)], axis=-1)


def augmented(records: np.ndarray | tf.Tensor, draws: tf.Tensor, augmentation: str) -> tf.Tensor:
    images, masks = augment(tf.convert_to_tensor(records), draws, augmentation)
    assert images.dtype == masks.dtype == tf.float32
    return joined(images, masks)


@pytest.mark.parametrize("apply", [eagerly, in_tf_data])
class TestOperations:
    @pytest.mark.parametrize(
        ("operation", "expected"),
        [
            (lambda r: flip_left_right(r, tf.constant([True])), ROWS[:, ::-1]),
            (lambda r: flip_left_right(r, tf.constant([False])), ROWS),
            (lambda r: flip_up_down(r, tf.constant([True])), ROWS[::-1]),
            (lambda r: flip_up_down(r, tf.constant([False])), ROWS),
            (moved(), ROWS),
            # One of four columns to the right; the edge is mirrored, so that column 0 stands twice.
            (moved(right=0.25), ROWS[:, [0, 0, 1, 2]]),
            (moved(down=0.25), ROWS[[0, 0, 1, 2]]),
            (moved(down=-0.25), ROWS[[1, 2, 3, 3]]),
            # A quarter turn counter-clockwise: the right column becomes the top row.
            (moved(rotation=math.pi / 2), np.rot90(ROWS)),
        ],
        ids=["flipped_lr", "kept_lr", "flipped_ud", "kept_ud", "still", "right", "down", "up", "quarter_turn"],
    )
    def test_geometry_moves_image_and_mask_together(
        self, apply: Callable[[Operation, np.ndarray], np.ndarray], operation: Operation, expected: np.ndarray
    ) -> None:
        changed = apply(operation, record(ROWS))
        assert changed.dtype == np.uint8
        np.testing.assert_array_equal(changed, record(expected))

    def test_zoom_enlarges_about_the_centre(self, apply: Callable[[Operation, np.ndarray], np.ndarray]) -> None:
        plane = np.zeros((SIZE, SIZE), np.uint8)
        plane[1:3, 1:3] = 1
        # Twice as large, the 2×2 square in the middle fills the mask.
        mask = apply(moved(zoom=2.0), record(plane))[0, ..., 3]
        np.testing.assert_array_equal(mask, np.ones((SIZE, SIZE)))

    def test_moved_masks_hold_no_new_values(self, apply: Callable[[Operation, np.ndarray], np.ndarray]) -> None:
        plane = np.array([[0, 1, 255, 0], [1, 255, 0, 1], [0, 0, 1, 255], [255, 1, 0, 0]], np.uint8)
        mask = apply(moved(rotation=0.2, zoom=1.07, right=0.05, down=-0.03), record(plane))[0, ..., 3]
        assert set(np.unique(mask)) <= {0, 1, 255}

    def test_light(self, apply: Callable[[Operation, np.ndarray], np.ndarray]) -> None:
        records = record(np.array([[0, 100], [100, 200]], np.uint8))
        # Mean 100: ±100 become ±150, then 20 is added; 0 and 255 are the limits.
        light = {"brightness": tf.constant([20.0]), "contrast": tf.constant([1.5])}
        changed = apply(lambda images: change_light(images, **light), records[..., :3].astype(np.float32))
        np.testing.assert_array_equal(changed, record(np.array([[0, 120], [120, 255]], np.uint8))[..., :3])

    @pytest.mark.parametrize("augmentation", AUGMENTATIONS)
    def test_augment_is_a_pure_function(
        self, apply: Callable[[Operation, np.ndarray], np.ndarray], augmentation: str
    ) -> None:
        records = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 4)).astype(np.uint8)
        draws = draw(3, tf.constant([1, 2]))
        together = apply(lambda r: augmented(r, draws, augmentation), records)
        assert together.shape == records.shape
        assert together.dtype == np.uint8
        # What happens to a record does not depend on its batch.
        alone = [
            apply(lambda r, i=i: augmented(r, draws[i : i + 1], augmentation), records[i : i + 1]) for i in range(3)
        ]
        np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("levels", [range(256), (0, 1, 254, 255)])
def test_every_step_leaves_what_uint8_would_keep(levels: Sequence[int]) -> None:
    """So that it is the same as if the image went back to uint8 between the steps; no zero is negative."""
    records = np.random.default_rng(0).choice(np.array(levels, np.uint8), (32, 16, 16, 4))
    one = tf.linspace(-1.0, 1.0, 32)
    images, masks = move(tf.constant(records), rotation=one / 4, zoom=1 + one / 5, right=one / 8, down=-one / 8)
    assert masks.dtype == tf.uint8
    steps = [images]
    steps.append(change_gamma(steps[-1], tf.exp(one * 0.3)))
    steps.append(change_light(steps[-1], brightness=one * 25, contrast=1 - one / 5))
    for image in steps:
        kept = tf.cast(tf.cast(image, tf.uint8), tf.float32)
        assert image.numpy().tobytes() == kept.numpy().tobytes()


def test_none_changes_nothing() -> None:
    records = record(ROWS)
    np.testing.assert_array_equal(augmented(records, draw(1, tf.constant([0, 0])), "none"), records)


@pytest.mark.parametrize(
    ("left_right", "up_down", "expected"),
    [(0.5, 0.5, ROWS), (-0.5, 0.5, ROWS[:, ::-1]), (0.5, -0.5, ROWS[::-1]), (-0.5, -0.5, ROWS[::-1, ::-1])],
)
def test_flip_does_all_four_and_nothing_else(left_right: float, up_down: float, expected: np.ndarray) -> None:
    draws = np.ones((1, len(DRAWS)), np.float32)
    draws[0, :2] = left_right, up_down
    np.testing.assert_array_equal(augmented(record(ROWS), tf.constant(draws), "flip"), record(expected))


@pytest.mark.parametrize(("augmentation", "unused"), [("full", {"transposed", "gamma"}), ("square", {"rotation"})])
def test_each_draw_changes_the_record(augmentation: str, unused: set[str]) -> None:
    records = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 4)).astype(np.uint8)
    still = np.zeros((1, len(DRAWS)), np.float32)
    np.testing.assert_array_equal(augmented(records, tf.constant(still), augmentation), records)
    for index, name in enumerate(DRAWS):
        draws = still.copy()
        draws[0, index] = -0.9
        changed = bool(np.any(augmented(records, tf.constant(draws), augmentation) != records))
        assert changed == (name not in unused), name


def test_boxes_stay_boxes_under_square() -> None:
    records = np.zeros((64, 32, 32, 4), np.uint8)
    records[:, 10:19, 8:21, 3] = 1
    changed = augmented(tf.constant(records), draw(64, tf.constant([0, 1])), "square").numpy()[..., 3]
    assert len({mask.tobytes() for mask in changed}) > 32
    for mask in changed:
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.5 < mask.sum() / (9 * 13) < 1.7


def test_transposing_swaps_rows_and_columns_of_image_and_mask() -> None:
    np.testing.assert_array_equal(transpose(record(ROWS), tf.constant([True])), record(ROWS.T))
    np.testing.assert_array_equal(transpose(record(ROWS), tf.constant([False])), record(ROWS))


def test_gamma_keeps_black_and_white() -> None:
    images = np.array([0, 64, 255], np.float32)[None, :, None, None] * np.ones((1, 3, 3, 3), np.float32)
    changed = change_gamma(tf.constant(images), tf.constant([2.0])).numpy()
    np.testing.assert_array_equal(changed[0, :, 0, 0], [0, 16, 255])


def test_draws_are_a_function_of_the_seed() -> None:
    first, again, other = (draw(50, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)
    assert first.shape == (50, len(DRAWS))
    assert first.min() >= -1
    assert first.max() < 1
