"""The registered model's code on cells of every kind; tests/test_registry.py loads it as a stranger does."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from pycocotools import mask as pycoco

from experiments.registry.pyfunc_model import SegmentationModel
from seg.data.appearance import Appearance
from seg.inference import Predictor

SIZE = 16
IMAGE = np.zeros((20, 30, 3), np.uint8)
IMAGE[:, :15] = 255
PNG = bytes(cv2.imencode(".png", IMAGE)[1])


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    """Logit = (red - 127.5) / 8: bright pixels are foreground. Trained on grey images of 20 × 30."""
    layer = keras.layers.Conv2D(1, 1)
    network = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layer])
    layer.set_weights([np.reshape([1 / 8, 0, 0], (1, 1, 3, 1)), np.array([-127.5 / 8])])
    known = Appearance(
        height=(20, 20), width=(30, 30), aspect=(1.5, 1.5), brightness=(100, 150), contrast=(100, 127), colour=0
    )
    model = SegmentationModel()
    model.predictor = Predictor(network, batch_size=2, training_images=known)
    return model


def predict(model: SegmentationModel, *cells: Any, **params: Any) -> pd.DataFrame:
    return model.predict(None, pd.DataFrame({"image": pd.Series(cells, dtype=object)}), params)


def decode(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_mask_and_what_is_known_of_it(model: SegmentationModel) -> None:
    (row,) = predict(model, PNG).to_dict("records")
    expected = model.predictor.predict(PNG)
    np.testing.assert_array_equal(decode(row.pop("mask_png")), expected.mask * 255)
    assert row == {
        "height": 20,
        "width": 30,
        "area": expected.area,
        "confidence": expected.confidence,
        "unlike": "",
        "error": "",
    }
    json.dumps(row)


@pytest.mark.parametrize(
    "cell",
    [
        base64.b64encode(PNG).decode(),
        base64.b64encode(PNG),
        base64.encodebytes(PNG),
        f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
        IMAGE,
        IMAGE[..., 0],
        IMAGE.tolist(),
        (IMAGE / 255).tolist(),
        IMAGE[..., 0].astype(np.uint16) * 257,
        np.dstack([IMAGE, IMAGE[..., :1]]),
    ],
    ids=["text", "base64", "lines", "url", "array", "grey", "list", "list of floats", "uint16", "alpha"],
)
def test_every_kind_of_cell(model: SegmentationModel, cell: Any) -> None:
    assert predict(model, cell).mask_png[0] == predict(model, PNG).mask_png[0]


def test_the_outputs(model: SegmentationModel) -> None:
    expected = model.predictor.predict(PNG)
    assert "mask_png" in predict(model, PNG, output="mask")

    found = predict(model, PNG, output="probability")
    probability = decode(found.probability_png[0])
    assert probability.dtype == np.uint16
    np.testing.assert_allclose(probability / 65535, expected.probability, atol=0.5 / 65535 + 1e-6)

    rle = json.loads(predict(model, PNG, output="rle").segmentation[0])
    np.testing.assert_array_equal(pycoco.decode(rle), expected.mask)
    polygons = json.loads(predict(model, PNG, output="polygon").segmentation[0])
    np.testing.assert_array_equal(pycoco.decode(pycoco.merge(pycoco.frPyObjects(polygons, 20, 30))), expected.mask)
    for output in ("probability", "rle", "polygon"):
        assert "mask_png" not in predict(model, PNG, output=output)


def test_threshold_and_tta(model: SegmentationModel) -> None:
    grey = np.full((20, 30), 136, np.uint8)  # probability 1 / (1 + e^(-8.5 / 8)) = 0.743
    for threshold, area in ((0.7, 600), (0.8, 0), (None, 600)):
        assert predict(model, grey, threshold=threshold).area[0] == area
    # The model sees one pixel at a time: mirroring changes nothing.
    assert predict(model, PNG, tta="flips").mask_png[0] == predict(model, PNG).mask_png[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"threshold": 1.5}, "threshold must lie between 0 and 1, got 1.5; use 0.5"),
        ({"threshold": float("nan")}, "threshold must lie between 0 and 1, got nan"),
        ({"tta": "turns"}, "tta must be one of none, flips, square, got 'turns'"),
        ({"output": "box"}, "output must be one of mask, rle, polygon, probability, got 'box'"),
    ],
)
def test_parameters_that_are_none(model: SegmentationModel, params: dict[str, Any], message: str) -> None:
    with pytest.raises(MlflowException, match=message) as raised:
        predict(model, PNG, **params)
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"  # HTTP 400


def test_a_broken_image_costs_no_other(model: SegmentationModel) -> None:
    broken = {
        b"no image": "must be a JPEG, PNG, BMP or TIFF file, this one begins with 'no image'",
        "no image": "an image as text must be base64, got 'no image'",
        PNG[:60]: "the PNG is cut off",
        base64.b64encode(b"GIF89a").decode(): "must be a JPEG, PNG, BMP or TIFF file, this one begins with 'GIF89a'",
        "": "the image file is empty",
        None: "the image's value is missing; send the bytes of a file",
        float("nan"): "the image's value is missing",
        3: "must be the bytes of a file, or base64 of them, got int",
    }
    lists: list[tuple[Any, str]] = [
        ([[1, 2], [3]], "an image as a list must have rows of equal length"),
        ([[1, 256]], "whole numbers of an image must lie in 0 to 255, got 1 to 256"),
        ([[-1, 2]], "whole numbers of an image must lie in 0 to 255, got -1 to 2"),
        ([[0.5, 2]], r"an image of floating point must lie in [0, 1], got 0.5 to 2.0"),
        ([["a"]], "must be uint8, uint16, bool or floating point"),
        ([[None]], "must be uint8, uint16, bool or floating point"),
        ([], "an image must have shape"),
        (np.zeros((2, 2), np.int64), "must be uint8, uint16, bool or floating point"),
    ]
    cells = [*broken.items(), *lists]
    found = predict(model, *(cell for pair in cells for cell in (pair[0], PNG)))
    good, whole = predict(model, PNG).to_dict("records")[0], found.to_dict("records")
    assert whole[1::2] == [good] * len(cells)
    for row, (_, message) in zip(whole[::2], cells, strict=True):
        error = row.pop("error")
        assert message in error
        assert "\n" not in error
        assert set(row.values()) == {None}


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_path_is_never_read(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_bytes: bool
) -> None:
    """Whoever may ask for a mask over HTTP may not read the server's files, nor learn which there are."""
    monkeypatch.chdir(tmp_path)
    # The second name is base64, of six bytes.
    for name in ("scan.png", "scanpngs"):
        Path(name).write_bytes(PNG)
        for path in (name, str(tmp_path / name), (tmp_path / name).as_uri()):
            row = predict(model, path.encode() if as_bytes else path).to_dict("records")[0]
            there = row["error"]
            assert row["height"] is None
            Path(name).rename("away")
            assert predict(model, path.encode() if as_bytes else path).error[0] == there
            Path("away").rename(name)
    assert predict(model, tmp_path / "scan.png").error[0].endswith("got PosixPath; encode it.")


def test_an_image_unlike_the_training_images(model: SegmentationModel) -> None:
    blank, small = np.zeros((20, 30), np.uint8), IMAGE[:2, :2]
    assert predict(model, PNG, blank, small).unlike.tolist() == [
        "",
        "brightness 0 of 255: training images have 100 to 150; contrast 0 of 255: training images have 100 to 127",
        "height 2 pixels: training images have 20; width 2 pixels: training images have 30; "
        "brightness 255 of 255: training images have 100 to 150; contrast 0 of 255: training images have 100 to 127",
    ]


def test_the_rows_keep_the_index(model: SegmentationModel) -> None:
    given = pd.DataFrame({"image": [PNG, PNG]}, index=[7, 3])
    assert model.predict(None, given).index.tolist() == [7, 3]
    assert model.predict(None, given[:0]).empty
