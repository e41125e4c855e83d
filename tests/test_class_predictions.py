"""A model of several classes, from an image to its masks: by `Predictor`, the registered model, and for a folder."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from pycocotools import mask as pycoco

from experiments import app
from experiments.predict import predict_folder
from experiments.prediction.batch_prediction import PredictionSettings
from experiments.prediction.coco_results import image_ids
from experiments.registry.models import FetchedModel
from experiments.registry.pyfunc_model import SegmentationModel
from experiments.registry.registry import ModelInfo
from experiments.registry.saved_model import _signature
from experiments.web_page import models as web_models
from seg.errors import UserError
from seg.inference import Predictor
from tests.class_export import write_two_classes
from tests.tiny import write_tiny

SIZE = 16
NAMES = ("edema", "core")
# Left to right: background, edema, core, and a lone column of edema.
IMAGE = np.zeros((SIZE, SIZE, 3), np.uint8)
IMAGE[:, 4:10, 0] = 255
IMAGE[:, 10:14, 1] = 255
IMAGE[:, 15, 0] = 255
EXPECTED = np.zeros((SIZE, SIZE), np.uint8)
EXPECTED[:, 4:10], EXPECTED[:, 10:14], EXPECTED[:, 15] = 1, 2, 1


def network() -> keras.Model:
    """Logits 2 for background, red / 32 for the first class and green / 32 for the second."""
    layer = keras.layers.Conv2D(3, 1)
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layer])
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 0, 1] = kernel[0, 0, 1, 2] = 1 / 32
    layer.set_weights([kernel, np.array([2, 0, 0], np.float32)])
    return model


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(network(), batch_size=2, classes=NAMES)


def as_png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


class TestPredictor:
    def test_the_highest_class_wins(self, predictor: Predictor) -> None:
        found = predictor.predict(IMAGE)
        np.testing.assert_array_equal(found.mask, EXPECTED)
        assert (found.classes, found.threshold, found.area) == (NAMES, None, 16 * 11)
        # Where red is 255: logits 2, 7.96875 and 0.
        background = np.exp(2) / (np.exp(2) + np.exp(255 / 32) + 1)
        assert found.probability[0, 5] == pytest.approx(1 - background, rel=1e-5)
        assert found.class_probabilities is not None
        np.testing.assert_allclose(found.class_probabilities.sum(axis=2), 1, rtol=1e-5)

    def test_each_class_alone(self, predictor: Predictor) -> None:
        found = predictor.predict(IMAGE).by_class()
        assert list(found) == list(NAMES)
        assert [each.area for each in found.values()] == [16 * 7, 16 * 4]
        assert found["core"].bbox == (10, 0, 4, 16)
        np.testing.assert_array_equal(found["edema"].mask, EXPECTED == 1)
        assert 0.99 < found["edema"].confidence < 1
        np.testing.assert_array_equal(pycoco.decode(found["core"].segmentation()), EXPECTED == 2)

    def test_at_another_size(self, predictor: Predictor) -> None:
        large = cv2.resize(IMAGE, (48, 32), interpolation=cv2.INTER_NEAREST)
        mask = predictor.predict(large).mask
        assert mask.shape == (32, 48)
        assert (mask[:, 20] == 1).all()
        assert (mask[:, 36] == 2).all()

    @pytest.mark.parametrize("tta", ["flips", "square"])
    def test_mirrored(self, predictor: Predictor, tta: str) -> None:
        """The model sees one pixel at a time: turning and turning back changes nothing."""
        found, plain = predictor.predict(IMAGE, tta=tta), predictor.predict(IMAGE)
        np.testing.assert_array_equal(found.mask, plain.mask)
        np.testing.assert_allclose(found.class_probabilities, plain.class_probabilities, atol=1e-6)

    def test_only_the_largest_component_of_each_class(self, predictor: Predictor) -> None:
        expected = EXPECTED.copy()
        expected[:, 15] = 0
        np.testing.assert_array_equal(predictor.predict(IMAGE, largest_component="yes").mask, expected)
        own = Predictor(network(), classes=NAMES, largest_component="yes")
        np.testing.assert_array_equal(own.predict(IMAGE).mask, expected)
        np.testing.assert_array_equal(own.predict(IMAGE, largest_component="no").mask, EXPECTED)

    def test_of_one_class_the_prediction_is_the_class(self) -> None:
        lone = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(1, 1)])
        found = Predictor(lone).predict(IMAGE)
        assert found.by_class() == {"foreground": found}

    def test_there_is_no_threshold(self, predictor: Predictor) -> None:
        with pytest.raises(
            UserError, match="threshold must not be given to a model of 2 classes, .* got 0.5; leave it"
        ):
            predictor.predict(IMAGE, threshold=0.5)

    def test_names(self) -> None:
        assert Predictor(network()).classes == ("1", "2")
        with pytest.raises(UserError, match="classes must be 2 for a model of 3 logits per pixel, got a, b, c"):
            Predictor(network(), classes=["a", "b", "c"])

    def test_loaded_with_its_settings(self, tmp_path: Path) -> None:
        network().save(tmp_path / "model.keras")
        settings = {"threshold": None, "classes": list(NAMES), "largest_component": "yes"}
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        found = Predictor.load(tmp_path)
        assert (found.classes, found.threshold, found.largest_component) == (NAMES, None, "yes")
        (tmp_path / "settings.json").write_text('{"threshold": null, "classes": "ab"}')
        with pytest.raises(UserError, match="classes must be a list of names, got 'ab'"):
            Predictor.load(tmp_path)


class TestRegisteredModel:
    @pytest.fixture
    def model(self, predictor: Predictor) -> SegmentationModel:
        model = SegmentationModel()
        model.predictor = predictor
        return model

    def rows(self, model: SegmentationModel, *cells: Any, **params: Any) -> list[dict[str, Any]]:
        return model.predict(None, pd.DataFrame({"image": pd.Series(cells, dtype=object)}), params).to_dict("records")

    def test_the_mask_holds_the_classes(self, model: SegmentationModel) -> None:
        (row,) = self.rows(model, as_png(IMAGE))
        decoded = cv2.imdecode(np.frombuffer(row["mask_png"], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded, EXPECTED)
        assert json.loads(row["areas"]) == {"edema": 112, "core": 64}
        assert (row["area"], row["error"]) == (176, "")

    @pytest.mark.parametrize("output", ["rle", "polygon"])
    def test_a_segmentation_of_each_class(self, model: SegmentationModel, output: str) -> None:
        found = json.loads(self.rows(model, as_png(IMAGE), output=output)[0]["segmentation"])
        assert list(found) == list(NAMES)
        for label, name in enumerate(NAMES, start=1):
            parts = found[name] if output == "rle" else pycoco.merge(pycoco.frPyObjects(found[name], SIZE, SIZE))
            np.testing.assert_array_equal(pycoco.decode(parts), label == EXPECTED)

    def test_a_broken_image_costs_no_other(self, model: SegmentationModel) -> None:
        broken, whole = self.rows(model, b"no image", as_png(IMAGE))
        assert broken.pop("error").startswith("an image must be a JPEG")
        assert set(broken.values()) == {None}
        assert whole["error"] == ""

    def test_parameters(self, model: SegmentationModel) -> None:
        (row,) = self.rows(model, as_png(IMAGE), largest_component="yes")
        assert json.loads(row["areas"])["edema"] == 96
        for wrong in ({"threshold": 0.5}, {"largest_component": "maybe"}):
            with pytest.raises(MlflowException, match="must"):
                self.rows(model, as_png(IMAGE), **wrong)

    def test_its_signature_has_areas_and_no_threshold(self) -> None:
        signature = _signature({"threshold": None, "tta": "none", "largest_component": "yes"})
        assert [(param.name, param.default) for param in signature.params] == [
            ("tta", "none"),
            ("largest_component", "yes"),
            ("output", "mask"),
        ]
        assert "areas" in signature.outputs.input_names()


class TestFolder:
    @pytest.fixture
    def output(self, predictor: Predictor, tmp_path: Path) -> Path:
        scans = tmp_path / "scans"
        scans.mkdir()
        (scans / "a.png").write_bytes(as_png(IMAGE))
        (scans / "b.png").write_bytes(as_png(np.zeros_like(IMAGE)))
        settings = PredictionSettings(model="hash", threshold=None, tta="none", segmentation="rle")
        assert predict_folder(predictor, sorted(scans.iterdir()), tmp_path / "output", settings) == 0
        return tmp_path / "output"

    def test_an_entry_of_each_class(self, output: Path) -> None:
        entries = json.loads((output / "results.json").read_text())
        assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(1, 1), (1, 2)]
        for entry in entries:
            np.testing.assert_array_equal(pycoco.decode(entry["segmentation"]), entry["category_id"] == EXPECTED)
        categories = json.loads((output / "images.json").read_text())["categories"]
        assert categories == [{"id": 1, "name": "edema"}, {"id": 2, "name": "core"}]
        with (output / "predictions.csv").open(newline="") as rows:
            assert [row["area"] for row in csv.DictReader(rows)] == ["176", "0"]

    def test_the_pictures_hold_the_classes(self, output: Path) -> None:
        np.testing.assert_array_equal(cv2.imread(str(output / "masks" / "a.png"), cv2.IMREAD_UNCHANGED), EXPECTED)
        overlay = cv2.imread(str(output / "overlays" / "a.png"))
        assert len({tuple(overlay[8, column]) for column in (2, 7, 12)}) == 3

    def test_categories_of_the_annotations_beside_the_images(self, tmp_path: Path) -> None:
        data = write_two_classes(tmp_path / "export")
        paths = sorted((data / "test").glob("*.png"))
        found = image_ids(paths, NAMES)
        assert [(category.id, category.name) for category in found.categories] == [(1, "edema"), (2, "core")]
        other = image_ids(paths, ("edema", "tumour"))
        assert [category.id for category in other.categories] == [1, 2]
        assert other.note.endswith("_annotations.coco.json has no category tumour")


def test_a_dataset_of_other_classes_is_refused(tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path / "tiny")
    model = FetchedModel(file=tmp_path, threshold=None, image_size=16, run_id="", classes=NAMES)
    with pytest.raises(UserError, match="classes of the model, edema, core, got foreground; give classes=edema,core"):
        model.check_classes(manifest)
    one = replace(model, classes=("lesion",))
    one.check_classes(manifest)  # one class may have any name
    with pytest.raises(UserError, match="classes of the model, lesion, got edema, core; give classes=binary"):
        one.check_classes(replace(manifest, classes=NAMES))


def test_the_page_shows_no_model_of_several_classes(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(version="3", classes="foreground")  # its tag is wrong
    registry: Any = SimpleNamespace(find=lambda uri: info, aliases=lambda name: {})
    monkeypatch.setattr(web_models, "fetch_version", lambda *arguments: SimpleNamespace(file=Path()))
    monkeypatch.setattr(web_models, "Predictor", SimpleNamespace(load=lambda file: predictor))
    with pytest.raises(
        UserError, match="models of one class, and version 3 of it finds edema, core; use predict or serve"
    ):
        web_models.Models(registry, "it").load("/3")


def test_a_model_whose_tag_names_several_classes_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ModelInfo(name="it", version="3", run_id="r", test_key="k", dice=None, classes="edema,core")
    fetched: list[Any] = []
    registry: Any = SimpleNamespace(find=lambda uri: info, aliases=lambda name: {}, example=fetched.append)
    monkeypatch.setattr(web_models, "fetch_version", lambda *arguments: fetched.append(arguments))
    models = web_models.Models(registry, "it")
    for ask in (models.find, models.load, models.example):
        with pytest.raises(UserError, match="version 3 of it finds edema, core; use predict or serve"):
            ask("@champion")
    assert fetched == []


def test_the_page_refuses_it_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ModelInfo(name="it", version="3", run_id="r", test_key="k", dice=None, classes="edema,core")
    registry: Any = SimpleNamespace(find=lambda uri: info, aliases=lambda name: {}, versions=lambda name: ["3"])
    monkeypatch.setattr(app, "check_extra", lambda: None)
    monkeypatch.setattr(app, "Tracker", lambda *arguments: SimpleNamespace(uri=""))
    monkeypatch.setattr(app, "Registry", lambda uri: registry)
    monkeypatch.setattr(app, "find_examples", None)  # calling it would be a TypeError
    with pytest.raises(UserError, match="version 3 of it finds edema, core"):
        app.main(["--model_name=it"])
