"""The image size of a `.keras` file is read without TensorFlow, and a file from outside is not believed."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.command_line.options import threshold
from experiments.registry.models import read_image_size
from seg.errors import UserError


def keras_file(path: Path, *shapes: Any) -> Path:
    layers = [{"class_name": "InputLayer", "config": {"batch_shape": shape}} for shape in shapes]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
    return path


def test_the_side_of_the_input(tmp_path: Path) -> None:
    assert read_image_size(keras_file(tmp_path / "model.keras", [None, 96, 96, 3])) == 96


@pytest.mark.parametrize(
    "shape", [[None, 96, 64, 3], [None, None, None, 3], [None, 96, 96, 1], [None, "96", "96", 3], [None, 0, 0, 3]]
)
def test_an_input_that_is_no_square_image(shape: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must take square images with 3 channels"):
        read_image_size(keras_file(tmp_path / "model.keras", shape))


def test_two_inputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a .keras file of a model with one image"):
        read_image_size(keras_file(tmp_path / "model.keras", [None, 96, 96, 3], [None, 4]))


@given(content=st.binary(max_size=200))
def test_any_other_file(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fetch") / "model.keras"
    path.write_bytes(content)
    with pytest.raises(UserError, match="must be a .keras file of a model with one image"):
        read_image_size(path)


@given(
    config=st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_other_configuration(config: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fetch") / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    with pytest.raises(UserError, match="must be a .keras file of a model with one image"):
        read_image_size(path)


def test_threshold() -> None:
    assert threshold("tuned") is None
    assert threshold("0.25") == 0.25
    for text in ("0", "1", "nan", "-0.5", "half"):
        with pytest.raises(ValueError, match=r"^$|could not convert"):
            threshold(text)
