"""A split's predictions, one bit per pixel: they come back as they were, and a broken file is one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.jobs.split_predictions import SplitPredictions, predictions_file
from seg.errors import UserError


def make(size: int = 3) -> SplitPredictions:
    """Two images: foreground in the first row; predicted is the first row and, in the second image, nothing."""
    records = np.zeros((2, size, size, 4), np.uint8)
    records[:, 0, :, 3] = 1
    probabilities = np.zeros((2, size, size), np.float32)
    probabilities[0, 0] = 0.5
    return SplitPredictions.of(records, iter(probabilities), 0.5, "key")


def test_masks_and_dice():
    found = make()
    assert found.mask(0).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert found.mask(1).sum() == 0
    assert found.dice.tolist() == [1.0, 0.0]
    assert found.packed.shape == (2, 2)  # 9 bits each


def test_several_classes(tmp_path):
    records = np.zeros((1, 3, 3, 4), np.uint8)
    records[0, 0, :, 3], records[0, 1, :, 3] = 1, 2
    probabilities = np.zeros((1, 3, 3, 3), np.float32)
    probabilities[0, 0, :, 1] = probabilities[0, 1, 1:, 2] = probabilities[0, 2, 0, 1] = 0.9
    probabilities[0, 1, 0, 0] = probabilities[0, 2, 1:, 0] = 0.9
    made = SplitPredictions.of(records, iter(probabilities), None, "key", classes=2)
    assert made.mask(0).tolist() == [[1, 1, 1], [0, 2, 2], [1, 0, 0]]
    assert made.dice.tolist() == pytest.approx([(6 / 7 + 4 / 5) / 2])
    made.save(tmp_path / "test_predictions.npz")
    found = SplitPredictions.load(tmp_path / "test_predictions.npz")
    assert (found.classes, found.mask(0).tolist()) == (2, made.mask(0).tolist())
    kept = SplitPredictions.of(records, iter(probabilities), None, "key", classes=2, largest_component="yes")
    assert kept.mask(0).tolist() == [[1, 1, 1], [0, 2, 2], [0, 0, 0]]


def test_a_file_without_classes_has_one(tmp_path):
    made, path = make(), tmp_path / "val_predictions.npz"
    np.savez(path, masks=made.packed, dice=made.dice, image_size=3, dataset_key="key")
    assert SplitPredictions.load(path).mask(0).tolist() == made.mask(0).tolist()


def test_saved_and_loaded(tmp_path):
    path = predictions_file(tmp_path, "val")
    made = make()
    made.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["val_predictions.npz"]
    found = SplitPredictions.load(path)
    assert np.array_equal(found.packed, made.packed)
    assert (found.dice.tolist(), found.image_size, found.dataset_key) == ([1.0, 0.0], 3, "key")


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="must be there, and is not; its trial was pruned or is of an older version"):
        SplitPredictions.load(predictions_file(tmp_path, "val"))


@given(st.binary(max_size=300))
def test_any_other_file_is_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="must be readable, got") as refused:
        SplitPredictions.load(path)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("image_size", [2, 4])
def test_masks_of_another_shape(tmp_path, image_size):
    path = tmp_path / "val_predictions.npz"
    made = make()
    np.savez(path, masks=made.packed, dice=made.dice, image_size=image_size * 4, dataset_key="key")
    with pytest.raises(UserError, match=r"must hold masks of shape .*, got \(2, 2\); delete it"):
        SplitPredictions.load(path)
