"""Arrays of two files are compared bit by bit; a hand-made `.keras` file needs no TensorFlow."""

import io
import zipfile

import h5py
import numpy as np
import pytest

from experiments.reproduction.weights import compare_weights, read_weights
from seg.errors import UserError


def write_model(path, arrays, name="first"):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = name
        for number, array in enumerate(arrays):
            group[str(number)] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


def test_arrays_have_the_names_of_their_layers(tmp_path):
    found = read_weights(write_model(tmp_path / "m.keras", [np.ones((2, 3), np.float32), np.zeros(3, np.float32)]))
    assert {name: array.shape for name, array in found.items()} == {"first/0": (2, 3), "first/1": (3,)}


def test_two_layers_of_one_name_stay_apart(tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for layer, value in (("a", 1.0), ("b", 2.0)):
            group = file.create_group(f"layers/{layer}/vars")
            group.attrs["name"] = "same"
            group["0"] = np.full(1, value)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("model.weights.h5", buffer.getvalue())
    assert sorted(float(array[0]) for array in read_weights(tmp_path / "m.keras").values()) == [1.0, 2.0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_no_model(tmp_path, content):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"must be a .keras file with its weights"):
        read_weights(path)


def test_an_archive_without_weights(tmp_path):
    for name, content in (("other", b""), ("model.weights.h5", b"no HDF5")):
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(UserError, match=r"must be a .keras file with its weights"):
            read_weights(tmp_path / "model.keras")


def test_equal():
    arrays = {"a": np.array([1.0, np.nan], np.float32), "b": np.zeros(0)}
    found = compare_weights(arrays, {name: array.copy() for name, array in arrays.items()})
    assert found.bit_equal
    assert (found.arrays, found.max_difference, found.furthest) == (2, 0.0, "")


def test_the_largest_difference_and_where_it_is():
    then = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([5.0], np.float32), "c": np.ones(2)}
    now = {"a": np.array([1.0, 2.5], np.float32), "b": np.array([3.0], np.float32), "c": np.ones(2)}
    found = compare_weights(then, now)
    assert not found.bit_equal
    assert (found.differing, found.max_difference, found.furthest) == (("a", "b"), 2.0, "b")


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [
        (np.array([0.0]), np.array([-0.0]), 0.0),  # another bit, the same number
        (np.array([1.0]), np.array([1.0], np.float32), 0.0),  # another type
        (np.array([1.0]), np.array([[1.0]]), None),
        (np.array([1.0]), np.array([np.nan]), None),
        (np.array([np.inf]), np.array([1.0]), None),
    ],
)
def test_what_counts_as_different(before, after, distance):
    found = compare_weights({"a": before}, {"a": after})
    assert (found.bit_equal, found.differing, found.max_difference) == (False, ("a",), distance)
    assert found.furthest == "a"


def test_arrays_of_one_model_alone():
    found = compare_weights({"a": np.ones(1), "b": np.ones(1)}, {"b": np.ones(1), "c": np.ones(1)})
    assert (found.only_then, found.only_now, found.arrays, found.bit_equal) == (("a",), ("c",), 1, False)
