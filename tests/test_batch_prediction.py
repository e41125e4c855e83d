import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from experiments.command_line import entry
from experiments.predict import predict_folder
from experiments.prediction import batch_prediction
from experiments.prediction.batch_prediction import JOURNAL, PredictionSettings, hash_model, open_output, output_names
from seg.data.appearance import Appearance
from seg.errors import UserError
from seg.inference import Prediction, Predictor

SIZE = 16
SETTINGS = PredictionSettings(model="a hash", threshold=0.5, tta="none", segmentation="rle")
BRIGHT = range(5)  # of seven images; the sixth is dark, the seventh is no image


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Logit = (red - 127.5) / 8: bright pixels are foreground. Two images make a batch."""
    image = keras.Input((SIZE, SIZE, 3))
    logits = keras.layers.Conv2D(1, 1, name="logits")(image)
    model = keras.Model(image, logits)
    model.get_layer("logits").set_weights([np.reshape([1 / 8, 0, 0], (1, 1, 3, 1)), np.array([-127.5 / 8])])
    return Predictor(model, batch_size=2)


def write_scans(folder: Path) -> list[Path]:
    """Five images whose left half is bright, one dark image, one file that is no image."""
    folder.mkdir()
    for number in range(6):
        image = np.full((32, 40, 3), 10 + number, np.uint8)
        image[:, :20] += 200 * (number in BRIGHT)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "6.png").write_text("<html>not found</html>")
    return sorted(folder.iterdir())


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    return write_scans(tmp_path / "scans")


@pytest.fixture(scope="module")
def whole(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """The images, and the output of a call that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    paths = write_scans(folder / "scans")
    assert predict_folder(predictor, paths, folder / "output", SETTINGS) == entry.FAILED
    return paths, folder / "output"


def content(output: Path) -> dict[str, bytes]:
    """Every file but the journal, by name."""
    files = (path for path in output.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def calls(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the images of each batch that goes through the model."""
    counted: list[int] = []
    predict_many: Callable[..., object] = predictor.predict_many

    def count(images: list[bytes], *options: object) -> object:
        counted.append(len(images))
        return predict_many(images, *options)

    monkeypatch.setattr(predictor, "predict_many", count)
    return counted


def test_pictures_and_results(whole: tuple[list[Path], Path]) -> None:
    _, output = whole
    assert sorted(content(output)) == [
        "images.json",
        *(f"masks/{number}.png" for number in range(6)),
        *(f"overlays/{number}.png" for number in range(6)),
        "predictions.csv",
        "results.json",
    ]
    mask = cv2.imread(str(output / "masks" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (32, 40)
    assert np.unique(mask).tolist() == [0, 255]
    results = json.loads((output / "results.json").read_text())
    assert [result["image_id"] for result in results] == [1, 2, 3, 4, 5]  # nothing is found in the sixth
    assert set(results[0]) == {"image_id", "category_id", "segmentation", "score", "bbox"}
    coco = COCO(output / "images.json")
    assert [image["file_name"] for image in coco.imgs.values()] == [f"{number}.png" for number in range(6)]
    found = coco.loadRes(str(output / "results.json"))
    np.testing.assert_array_equal(found.annToMask(found.anns[1]) * 255, mask)


def test_the_same_call_predicts_nothing_again(
    predictor: Predictor, whole: tuple[list[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, output = whole
    before, counted = content(output), calls(predictor, monkeypatch)
    assert predict_folder(predictor, paths, output, SETTINGS) == entry.FAILED
    assert counted == []
    assert content(output) == before


@pytest.mark.parametrize(
    "change", [{"model": "another"}, {"threshold": 0.9}, {"tta": "flips"}, {"segmentation": "polygon"}]
)
def test_other_settings_predict_all_again(
    predictor: Predictor, scans: list[Path], tmp_path: Path, change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    predict_folder(predictor, scans, output, SETTINGS)
    counted = calls(predictor, monkeypatch)
    predict_folder(predictor, scans, output, replace(SETTINGS, **change))
    assert counted == [2, 2, 2, 1]
    predict_folder(predictor, scans, tmp_path / "fresh", replace(SETTINGS, **change))
    assert content(output) == content(tmp_path / "fresh")


def test_another_image_of_the_same_name_and_a_lost_mask_are_predicted_again(
    predictor: Predictor, scans: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    predict_folder(predictor, scans, output, SETTINGS)
    shutil.copy(scans[5], scans[0])
    (output / "masks" / "2.png").unlink()
    (output / "overlays" / "4.png").write_bytes(b"half a picture")
    scans[1].write_bytes(b"no image any more")
    counted = calls(predictor, monkeypatch)
    predict_folder(predictor, scans, output, SETTINGS)
    assert counted == [2, 2, 2]
    predict_folder(predictor, scans, tmp_path / "fresh", SETTINGS)
    assert content(output) == content(tmp_path / "fresh")  # without the pictures of the image that is none any more


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.integers(0, 12), torn=st.integers(0, 10_000))
def test_resumed_is_as_uninterrupted(
    predictor: Predictor,
    whole: tuple[list[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
    written: int,
    torn: int,
) -> None:
    """Killed while it writes a picture, or with the journal cut at any byte."""
    paths, expected = whole
    output = tmp_path_factory.mktemp("resumed") / "output"
    replaced = 0

    def killed(partial: Path, path: Path) -> Path:
        nonlocal replaced
        replaced += 1
        if replaced > written:
            raise KeyboardInterrupt
        return original(partial, path)

    original = Path.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            predict_folder(predictor, paths, output, SETTINGS)
    assert not (output / "results.json").exists()
    journal = (output / JOURNAL).read_bytes()
    (output / JOURNAL).write_bytes(journal[: torn % (len(journal) + 1)])
    predict_folder(predictor, paths, output, SETTINGS)
    assert content(output) == content(expected)


def test_broken_files_and_unlike_ones_are_named(
    predictor: Predictor, scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Appearance(
        height=(32, 32), width=(40, 40), aspect=(1.25, 1.25), brightness=(100, 120), contrast=(90, 110), colour=0
    )
    predictor = Predictor(keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(1, 1)]), 0.5, 2, known)
    missing = tmp_path / "missing.png"
    assert predict_folder(predictor, [*scans, missing], tmp_path / "output", SETTINGS) == entry.FAILED
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert [line for line in lines if line.startswith("unlike")] == [
        f"unlike the training images: {scans[5]}: brightness 15 of 255: training images have 100 to 120; "
        "contrast 0 of 255: training images have 90 to 110"
    ]
    assert f"error: {scans[6]}: an image must be a JPEG" in printed.err
    assert f"error: {missing}: an image's path must name a file" in printed.err
    assert "6 of 8 images, 1 of them unlike the training images" in printed.out


def test_all_good_is_exit_code_0(predictor: Predictor, scans: list[Path], tmp_path: Path) -> None:
    assert predict_folder(predictor, scans[:1], tmp_path / "output", SETTINGS) == 0


def test_an_image_that_only_fails_at_its_full_size_costs_itself(
    predictor: Predictor, scans: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes, *, exif: bool) -> np.ndarray:
        raise UserError("the image is damaged")

    monkeypatch.setattr(batch_prediction, "decode_image", fail)
    assert isinstance(predictor.predict(scans[0]), Prediction)
    assert predict_folder(predictor, scans[:2], tmp_path / "output", SETTINGS) == entry.FAILED


def test_equal_stems_in_two_folders_both_stay(predictor: Predictor, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    paths = [scans[0], Path(shutil.copy(scans[5], tmp_path / "more" / "0.png"))]
    predict_folder(predictor, paths, tmp_path / "output", SETTINGS)
    bright, dark = (cv2.imread(str(tmp_path / "output" / "masks" / name)).any() for name in ("0.png", "0_2.png"))
    assert (bright, dark) == (True, False)


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(UserError, match="output must be a folder that can be written"):
        open_output(tmp_path / "output", SETTINGS)


def test_a_picture_that_cannot_be_written(predictor: Predictor, scans: list[Path], tmp_path: Path) -> None:
    (tmp_path / "output" / "masks" / "0.png").mkdir(parents=True)
    with pytest.raises(UserError, match="0.png cannot be written"):
        predict_folder(predictor, scans[:1], tmp_path / "output", SETTINGS)


def test_the_models_hash_is_of_its_weights_and_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    file.write_bytes(b"weights")
    without = hash_model(file)
    (tmp_path / "settings.json").write_text('{"threshold": 0.4}')
    with_settings = hash_model(file)
    file.write_bytes(b"others")
    assert len({without, with_settings, hash_model(file), hashlib.sha256(b"weights").hexdigest()}) == 4


def test_equal_stems_get_different_names() -> None:
    assert output_names([Path("a.png"), Path("b.png")]) == ["a.png", "b.png"]
    paths = [Path("a.png"), Path("a.jpg"), Path("x/A.png"), Path("a_2.png")]
    assert output_names(paths) == ["a.png", "a_2.png", "A_3.png", "a_2_2.png"]


@pytest.mark.parametrize("letter", ["a", "é", "😀"])
def test_names_as_long_as_a_file_system_allows(predictor: Predictor, tmp_path: Path, letter: str) -> None:
    """251 bytes before `.png`, twice: both are predicted, and no other image is lost."""
    stem = letter * (251 // len(letter.encode()))
    paths = [tmp_path / f"{stem[:-1]}a.png", tmp_path / f"{stem[:-1]}b.png", tmp_path / "short.png"]
    for path in paths:
        path.write_bytes(cv2.imencode(".png", np.full((20, 20), 200, np.uint8))[1].tobytes())
    assert predict_folder(predictor, paths, tmp_path / "output", SETTINGS) == 0
    written = sorted(path.name for path in (tmp_path / "output" / "masks").iterdir())
    assert written == sorted(output_names(paths))
    assert len(set(written)) == 3
