"""The logic of the page, without a browser and without a model: two fake ones predict what is written here."""

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from experiments.registry.registry import ModelInfo
from experiments.web_page import look as look_module
from experiments.web_page import views
from experiments.web_page.look import Look, look_at
from experiments.web_page.models import LoadedModel, Models
from experiments.web_page.session import Session
from seg.data.coco_reader import read_annotations
from seg.data.convert import convert
from seg.data.corrections import Corrections
from seg.data.masks import region
from seg.errors import UserError
from seg.inference import Prediction
from tests.small_export import write_export

# Rows of a 2×4 image.
CHAMPION = np.array([[0.1, 0.4, 0.6, 0.9], [0.0, 0.0, 0.6, 0.9]], np.float32)
CHALLENGER = np.array([[0.1, 0.8, 0.8, 0.8], [0.0, 0.0, 0.0, 0.0]], np.float32)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


IMAGE = png(np.array([[10, 20, 30, 40], [50, 60, 70, 80]], np.uint8))


class FakePredictor:
    threshold = 0.5
    image_size = 32
    exif = "ignore"
    calls = 0

    def __init__(self, probability: np.ndarray, unlike: tuple[str, ...] = ()) -> None:
        self._probability = probability
        self._unlike = unlike

    def predict(self, content: bytes) -> Prediction:
        FakePredictor.calls += 1
        mask = (self._probability >= 0.5).astype(np.uint8)
        return Prediction(mask, self._probability, 0.5, 0.75, self._unlike)


def model(version: int, probability: np.ndarray, *aliases: str, **options: Any) -> LoadedModel:
    info = ModelInfo(name="seg-unet", version=str(version), run_id="r", test_key="k", dice=0.645)
    return LoadedModel(info=info, aliases=aliases, predictor=FakePredictor(probability, **options))  # type: ignore[arg-type]


@pytest.fixture
def look() -> Look:
    return look_at("scan.png", IMAGE, [model(1, CHAMPION, "champion"), model(2, CHALLENGER)])


class TestLook:
    def test_a_threshold_moves_without_the_model(self, look: Look) -> None:
        calls = FakePredictor.calls
        assert look.readings[0].mask.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
        moved = look.with_threshold(0, 0.9)
        assert moved.readings[0].mask.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
        assert moved.with_threshold(0, 0.4).readings[0].mask.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
        assert moved.readings[1].mask.tolist() == [[0, 1, 1, 1], [0, 0, 0, 0]]
        assert FakePredictor.calls == calls

    def test_the_slider_of_a_model_that_is_gone(self) -> None:
        alone = look_at("scan.png", IMAGE, [model(1, CHAMPION)])
        assert alone.with_threshold(1, 0.9) is alone

    def test_compared_with_the_other_model_or_the_truth(self, look: Look) -> None:
        reference = look.reference(0)
        assert reference is not None
        assert reference.tolist() == look.readings[1].mask.tolist()
        truth = np.array([[0, 0, 0, 255], [0, 0, 0, 1]], np.uint8)
        for index in (0, 1):
            found = look.with_truth(png(truth)).reference(index)
            assert found is not None
            assert found.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
        assert look_at("scan.png", IMAGE, [model(1, CHAMPION)]).reference(0) is None

    def test_a_truth_of_another_size(self, look: Look) -> None:
        with pytest.raises(UserError, match="the size of its image, 2×4, got 3×4; export it at that size"):
            look.with_truth(png(np.zeros((3, 4), np.uint8)))

    @pytest.mark.parametrize("content", [b"", b"no image", IMAGE[:20]])
    def test_broken_files(self, look: Look, content: bytes) -> None:
        with pytest.raises(UserError):
            look_at("scan.png", content, [model(1, CHAMPION)])
        with pytest.raises(UserError):
            look.with_truth(content)

    def test_mask_to_download(self, look: Look) -> None:
        mask = cv2.imdecode(np.frombuffer(look.mask_png(), np.uint8), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.tolist() == [[0, 0, 255, 255], [0, 0, 255, 255]]

    def test_coco_to_download(self, look: Look, tmp_path: Path) -> None:
        file = read_annotations(tmp_path / "coco.json", look.with_threshold(0, 0.9).coco().encode(), "train")
        assert file.problems == ()
        (image,), (annotation,) = file.images, file.annotations
        assert (image.file_name, image.height, image.width) == ("scan.png", 2, 4)
        content = json.loads(look.with_threshold(0, 0.9).coco())
        assert content["annotations"][0]["bbox"] == [3, 0, 1, 2]
        assert content["info"]["model"] == "models:/seg-unet/1"
        assert content["info"]["threshold"] == 0.9
        assert annotation.area == 2

    def test_coco_of_an_empty_mask(self, look: Look) -> None:
        content = json.loads(look.with_threshold(0, 1.0).coco())
        assert (len(content["images"]), content["annotations"]) == (1, [])

    def test_too_large_for_the_page(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        """Judged by the header, before a pixel is decoded or predicted."""
        monkeypatch.setattr(look_module, "MAX_PIXELS", 8)
        look_at("scan.png", IMAGE, [model(1, CHAMPION)])
        monkeypatch.setattr(look_module, "MAX_PIXELS", 7)
        calls = FakePredictor.calls
        with pytest.raises(UserError, match="at most 7 pixels, got 4×2; make it smaller, or predict it with"):
            look_at("scan.png", IMAGE[:40], [model(1, CHAMPION)])
        assert FakePredictor.calls == calls
        with pytest.raises(UserError, match="the size of its image, 2×4, got 8192×8192"):
            look.with_truth(IMAGE[:16] + b"\0\0\x20\0\0\0\x20\0" + IMAGE[24:])


class TestSession:
    def test_changes_are_of_what_is_there(self, look: Look) -> None:
        session = Session()
        assert session.is_empty
        assert session.begin(look, lambda look: look.name) == "scan.png"
        assert not session.is_empty
        session.change(lambda look: look.with_threshold(0, 0.9), views.pictures)
        session.change(lambda look: look.with_threshold(1, 0.7), views.pictures)
        assert [reading.threshold for reading in session.look.readings] == [0.9, 0.7]

    def test_a_truth_stays_with_its_image(self, look: Look) -> None:
        session = Session()
        session.begin(look.with_truth(IMAGE), views.pictures)
        session.begin(look, views.pictures)
        assert session.look.truth is not None
        other = png(np.zeros((2, 4), np.uint8))
        session.begin(look_at("other.png", other, [model(1, CHAMPION)]), views.pictures)
        assert session.look.truth is None

    def test_a_refused_change_leaves_all_as_it_was(self, look: Look) -> None:
        session = Session()
        session.begin(look, views.pictures)
        with pytest.raises(UserError):
            session.change(lambda look: look.with_truth(b"broken"), views.pictures)
        assert session.look is look
        session.change(lambda look: look.with_threshold(0, 0.9), views.pictures)  # nothing is locked

    def test_a_copy_is_empty(self, look: Look) -> None:
        session = Session()
        session.begin(look, views.pictures)
        assert copy.deepcopy(session).is_empty

    def test_nothing_to_look_at(self) -> None:
        with pytest.raises(UserError, match="there must be an image first; drop one, or pick an example"):
            Session().look  # noqa: B018


class TestCorrections:
    def test_redrawn_to_a_training_record(self, look: Look, tmp_path: Path) -> None:
        drawn = np.array([[255, 0, 0, 0], [255, 255, 0, 0]], np.uint8)
        address = f"data:image/png;base64,{base64.b64encode(png(cv2.merge([drawn] * 3))).decode()}"
        where = look.redraw(Corrections(tmp_path / "corrections"), address)
        assert Path(where).read_bytes() == IMAGE
        data = write_export(tmp_path / "data")
        options: dict[str, Any] = {"image_size": 8, "jobs": 1, "progress": False}
        manifest = convert(data, tmp_path / "workspace", additional=tmp_path / "corrections", **options)
        last = list(manifest.examples("train"))[-1]
        assert region(last.mask, 2, 4).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]

    def test_marked_as_wrong(self, look: Look, tmp_path: Path) -> None:
        look.mark_wrong(Corrections(tmp_path))
        (annotation,) = json.loads((tmp_path / "wrong" / "_annotations.coco.json").read_text())["annotations"]
        assert annotation["area"] == 4
        assert annotation["model"] == "models:/seg-unet/1"
        assert annotation["threshold"] == 0.5

    @pytest.mark.parametrize("letter", ["a", "é", "日", "😀"])
    def test_names_as_long_as_a_file_system_allows(self, look: Look, tmp_path: Path, letter: str) -> None:
        for count in range(55, 251 // len(letter.encode()) + 1):
            corrections = Corrections(tmp_path)
            image = corrections.mark_wrong(IMAGE, f"{letter * count}.png", look.readings[0].mask, {})
            assert image.read_bytes() == IMAGE
            assert len(image.name.encode()) < 100
        assert len(list((tmp_path / "wrong").iterdir())) == 2  # the image, and its annotations

    @pytest.mark.parametrize("drawn", ["", "data:image/png;base64,AAAA", "/etc/passwd"])
    def test_no_drawing(self, look: Look, tmp_path: Path, drawn: str) -> None:
        with pytest.raises(UserError):
            look.redraw(Corrections(tmp_path), drawn)
        assert not (tmp_path / "train").exists()


class TestViews:
    def test_header_names_the_model_and_its_score(self) -> None:
        shown = views.header("<seg>", [model(3, CHAMPION, "champion")])
        for part in ("&lt;seg&gt;", "version 3 · champion", "0.645", "0.50", "32 px"):
            assert part in shown

    def test_pictures_of_one_model(self) -> None:
        shown = views.pictures(look_at("scan.png", IMAGE, [model(1, CHAMPION)]))
        assert re.findall("<figcaption>(.*?)</figcaption>", shown) == ["Image", "Prediction", "Mask"]
        # (0.6 + 0.9 + 0.6 + 0.9) / 4
        assert "threshold 0.50 · area 4 px (50.0%) · confidence 0.75" in shown

    def test_pictures_of_two(self, look: Look) -> None:
        shown = views.pictures(look)
        assert re.findall("<figcaption>(.*?)</figcaption>", shown) == ["Image", "Prediction", "Mask", "Difference"] * 2
        # 4 and 3 pixels, of which 2 are the same: 2 · 2 / 7
        assert "Dice 0.571 against version 2" in shown
        assert "Dice 0.571 against version 1 · champion" in shown

    def test_two_empty_masks_agree(self, look: Look) -> None:
        empty = look.with_threshold(0, 1.0).with_truth(png(np.zeros((2, 4), np.uint8)))
        assert "Dice 1.000 against the truth" in views.pictures(empty)

    def test_confidence_where_nothing_is_found(self, look: Look) -> None:
        assert "confidence 0.10" in views.pictures(look.with_threshold(0, 1.0))  # 1 - 0.9

    def test_what_is_unlike_is_said(self) -> None:
        odd = look_at("scan.png", IMAGE, [model(1, CHAMPION, unlike=("it is <small>",))])
        assert "Unlike the training images: it is &lt;small&gt;" in views.pictures(odd)

    def test_downloads_are_whole_files(self, look: Look) -> None:
        files = [json.loads(made(look)) for made in (views.mask_file, views.coco_file)]
        assert [(file["name"], file["type"], base64.b64decode(file["content"])) for file in files] == [
            ("scan_mask.png", "image/png", look.mask_png()),
            ("scan_coco.json", "application/json", look.coco().encode()),
        ]

    def test_a_slider_makes_no_files(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        """Encoding a large mask takes seconds, and a slider moves many times."""

        def never(*_: Any) -> Any:
            raise AssertionError

        monkeypatch.setattr(Look, "mask_png", never)
        monkeypatch.setattr(Look, "coco", never)
        assert "threshold 0.90" in views.pictures(look.with_threshold(0, 0.9))

    def test_a_name_cannot_leave_its_attribute(self) -> None:
        shown = views.pictures(look_at('"><script>.png', IMAGE, [model(1, CHAMPION)]))
        assert "<script>" not in shown

    def test_a_large_image_is_shown_small(self) -> None:
        large = np.zeros((1024, 2048), np.uint8)
        shown = views.pictures(look_at("scan.png", png(large), [model(1, large.astype(np.float32))]))
        assert set(re.findall(r'width="(\d+)" height="(\d+)"', shown)) == {("512", "256")}

    def test_examples(self) -> None:
        shown = views.gallery([("a.png", IMAGE), ("<b>.png", IMAGE)])
        assert re.findall(r'title="([^"]+)" data-index="(\d)"', shown) == [("a.png", "0"), ("&lt;b&gt;.png", "1")]

    def test_to_redraw(self, look: Look) -> None:
        given = json.loads(views.to_redraw(look))
        mask = base64.b64decode(given["mask"].removeprefix("data:image/png;base64,"))
        assert mask == look.mask_png()

    def test_notes(self) -> None:
        assert views.note("") == ""
        assert "a&lt;b" in views.note("a<b")


class FakeRegistry:
    def versions(self, name: str) -> list[str]:
        return ["10", "2"] if name == "seg-unet" else []

    def aliases(self, name: str) -> dict[str, str]:
        return {"blue": "2", "challenger": "10", "champion": "2"}

    def find(self, uri: str) -> ModelInfo:
        return ModelInfo(name="seg-unet", version="2", run_id="r", test_key="k", dice=None)


class TestModels:
    def test_choices(self) -> None:
        assert Models(FakeRegistry(), "seg-unet").choices() == [  # type: ignore[arg-type]
            ("champion (version 2)", "@champion"),
            ("blue (version 2)", "@blue"),
            ("challenger (version 10)", "@challenger"),
            ("version 10", "/10"),
            ("version 2", "/2"),
        ]

    def test_no_version(self) -> None:
        with pytest.raises(UserError, match="model_name must have a version in the registry, got 'other'; run main"):
            Models(FakeRegistry(), "other").choices()  # type: ignore[arg-type]
