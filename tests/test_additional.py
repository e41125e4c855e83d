"""Corrections that join the training images: `convert --additional`."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from experiments.convert import main as convert_main
from seg.data.audit import audit
from seg.data.convert import BadDataError, convert
from seg.data.corrections import Corrections
from seg.data.export_coco import export_coco
from seg.data.manifest import Manifest
from seg.data.masks import region
from seg.errors import UserError
from tests.small_export import content, write_export

NEW = cv2.imencode(".png", np.full((8, 8), 77, np.uint8))[1].tobytes()


def drawn() -> np.ndarray:
    """Rows 1 and 2, columns 3 to 6, of an image of 8×8."""
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3, 3:7] = 1
    return mask


class Place:
    """An export of two images per split, a set of corrections, and a workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_export(folder / "data")
        self.corrections = Corrections(folder / "corrections")

    def convert(self, **options: Any) -> Manifest:
        options = {"additional": self.corrections.folder, "image_size": 8, "jobs": 1, "progress": False} | options
        return convert(self.data, self.folder / "workspace", **options)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_redrawn_mask_joins_train_pixel_for_pixel(place: Place) -> None:
    plain = place.convert(additional=None)
    place.corrections.redraw(NEW, "new.png", drawn(), {"model": "models:/seg-unet/1"})
    manifest = place.convert()
    assert manifest.key != plain.key
    assert {name: split.examples for name, split in manifest.splits.items()} == {"train": 3, "val": 2, "test": 2}
    assert manifest.splits["test"].key == plain.splits["test"].key
    example = list(manifest.examples("train"))[2]
    assert example.file_name.startswith("additional/train/new-")
    np.testing.assert_array_equal(region(example.mask, 8, 8), drawn())
    np.testing.assert_array_equal(manifest.records("train")[2][..., 3], drawn())
    assert (manifest.records("train")[2][..., :3] == 77).all()
    assert place.convert(additional=None).key == plain.key


def test_another_mask_makes_another_dataset(place: Place) -> None:
    place.corrections.redraw(NEW, "new.png", drawn(), {})
    first = place.convert()
    place.corrections.redraw(NEW, "new.png", 1 - drawn(), {})
    assert place.convert().key != first.key


def test_a_corrected_training_image_is_replaced(place: Place) -> None:
    place.corrections.redraw((place.data / "train" / "image1.png").read_bytes(), "image1.png", drawn(), {})
    manifest = place.convert()
    assert manifest.splits["train"].examples == 2
    assert [problem["rule"] for problem in manifest.left_out] == ["corrected"]
    np.testing.assert_array_equal(manifest.records("train")[1][..., 3], drawn())


@pytest.mark.parametrize(("split", "folder"), [("val", "valid"), ("test", "test")])
def test_a_scored_image_is_a_leak(place: Place, split: str, folder: str) -> None:
    place.corrections.redraw((place.data / folder / "image0.png").read_bytes(), "scan.png", drawn(), {})
    with pytest.raises(UserError, match=rf"no image of val or test, and 1 are in {split}, first scan-.*image0\.png"):
        place.convert()


def test_an_image_twice_is_refused(place: Place) -> None:
    folder = write_export(place.folder / "twice", train=content(2)) / "train"
    (folder / "image1.png").write_bytes((folder / "image0.png").read_bytes())
    for other in ("valid", "test"):
        (place.folder / "twice" / other / "_annotations.coco.json").unlink()
    with pytest.raises(UserError, match="each image once, and 1 are there again, first image0.png"):
        place.convert(additional=place.folder / "twice")


@pytest.mark.parametrize("split", ["grouped", "kfold:3/1"])
def test_every_division_keeps_corrections_in_train(place: Place, split: str) -> None:
    place.data = write_export(place.folder / "more", train=content(6))
    place.corrections.redraw(NEW, "new.png", drawn(), {})
    manifest = place.convert(split=split, group_pattern="(.*)")
    assert [example.file_name.startswith("additional/") for example in manifest.examples("train")][-1]
    for scored in ("val", "test"):
        assert not any(example.file_name.startswith("additional/") for example in manifest.examples(scored))


def test_an_export_with_all_splits_is_no_set_of_corrections(place: Place) -> None:
    with pytest.raises(UserError, match=r"additional must be .* the split train alone.* has train, val, test|val"):
        place.convert(additional=place.data)


def test_a_missing_folder(place: Place) -> None:
    with pytest.raises(UserError, match="nowhere has none; give the folder of corrections that app writes"):
        place.convert(additional=place.folder / "nowhere")


def test_corrections_are_validated(place: Place) -> None:
    path = place.corrections.redraw(NEW, "new.png", drawn(), {})
    path.unlink()
    with pytest.raises(BadDataError, match="missing_file"):
        place.convert()


class TestCategories:
    def test_foreground_counts_beside_the_wanted(self, place: Place) -> None:
        place.corrections.redraw(NEW, "new.png", drawn(), {})
        manifest = place.convert(categories="lesion")
        np.testing.assert_array_equal(manifest.records("train")[2][..., 3], drawn())

    def test_without_a_wanted_one(self, place: Place) -> None:
        path = place.corrections.redraw(NEW, "new.png", drawn(), {}).parent / "_annotations.coco.json"
        path.write_text(path.read_text().replace("foreground", "bone"))
        with pytest.raises(UserError, match="one of the categories foreground, lesion, got bone"):
            place.convert(categories="lesion")

    def test_crowds_of_the_export_stay_what_they_are(self, place: Place) -> None:
        for split in ("train", "valid", "test"):
            path = place.data / split / "_annotations.coco.json"
            path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
        place.corrections.redraw(NEW, "new.png", drawn(), {})
        # All of them are crowds, so they are foreground; a correction, which is none, does not change that.
        assert (place.convert().records("train")[0][..., 3] == 1).sum() == 16


def test_the_audit_finds_the_files(place: Place) -> None:
    place.corrections.redraw(NEW, "new.png", drawn(), {})
    findings = {finding.rule for finding in audit(place.data, place.convert(), additional=place.corrections.folder)}
    assert "unlabelled_images" not in findings


def test_export_coco_writes_them_too(place: Place) -> None:
    place.corrections.redraw(NEW, "new.png", drawn(), {})
    manifest = place.convert()
    output = place.folder / "coco"
    export_coco(manifest, place.data, output, additional=place.corrections.folder)
    again = convert(output, place.folder / "again", image_size=8, jobs=1, progress=False)
    assert {name: split.key for name, split in again.splits.items()} == {
        name: split.key for name, split in manifest.splits.items()
    }


def test_the_option(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.corrections.redraw(NEW, "new.png", drawn(), {})
    options = {"data": place.data, "additional": place.corrections.folder, "workspace": place.folder / "workspace"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    assert convert_main([*arguments, "--image_size=8"]) == 0
    assert "train  3 images" in capsys.readouterr().out


class TestCorrections:
    def test_layout(self, tmp_path: Path) -> None:
        path = Corrections(tmp_path).redraw(NEW, "a b/../weird näme.PNG", drawn(), {"model": "m"})
        assert path.parent == tmp_path / "train"
        assert path.name.startswith("weird_näme-")
        assert path.read_bytes() == NEW
        found = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
        assert found["images"] == [{"id": 1, "file_name": path.name, "height": 8, "width": 8}]
        (annotation,) = found["annotations"]
        assert (annotation["image_id"], annotation["area"], annotation["bbox"]) == (1, 8, [3, 1, 4, 2])
        assert annotation["model"] == "m"

    def test_a_later_correction_replaces_an_earlier_one(self, tmp_path: Path) -> None:
        corrections = Corrections(tmp_path)
        corrections.redraw(NEW, "first.png", drawn(), {})
        corrections.redraw(NEW, "second.png", 1 - drawn(), {})
        found = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
        assert [annotation["area"] for annotation in found["annotations"]] == [56]
        assert [path.name[:7] for path in (tmp_path / "train").glob("*.png")] == ["second-"]

    def test_an_empty_mask_is_an_image_without_annotation(self, tmp_path: Path) -> None:
        Corrections(tmp_path).redraw(NEW, "new.png", np.zeros((8, 8), np.uint8), {})
        found = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
        assert (len(found["images"]), found["annotations"]) == (1, [])

    def test_redrawn_is_no_longer_wrong(self, tmp_path: Path) -> None:
        corrections = Corrections(tmp_path)
        wrong = corrections.mark_wrong(NEW, "new.png", drawn(), {})
        assert wrong.parent == tmp_path / "wrong"
        corrections.redraw(NEW, "new.png", drawn(), {})
        assert not wrong.exists()
        assert json.loads((tmp_path / "wrong" / "_annotations.coco.json").read_text())["images"] == []

    def test_a_mask_of_another_size(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"the size of its image, 8×8, got \(8, 9\)"):
            Corrections(tmp_path).redraw(NEW, "new.png", np.zeros((8, 9), np.uint8), {})

    def test_a_damaged_file_is_kept(self, tmp_path: Path) -> None:
        path = Corrections(tmp_path).redraw(NEW, "new.png", drawn(), {}).parent / "_annotations.coco.json"
        path.write_text("[]")
        with pytest.raises(UserError, match="must be a COCO file of corrections, got TypeError.*; move it away"):
            Corrections(tmp_path).redraw(NEW, "new.png", drawn(), {})
        assert path.read_text() == "[]"

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="corrections must be a folder that can be written, got .*/file/here"):
            Corrections(tmp_path / "file" / "here").redraw(NEW, "new.png", drawn(), {})


def test_a_correction_of_an_image_in_the_gap_does_not_come_back(place: Place) -> None:
    """A series cut into blocks: what is near to a scored image is left out, corrected or not."""
    names = [f"slice{number:03d}.png" for number in range(60)]
    document = content(60)
    for entry, name in zip(document["images"], names, strict=True):
        entry["file_name"] = name
    place.data = write_export(place.folder / "series", train=document)
    random = np.random.default_rng(0)
    for name in names:
        cv2.imwrite(str(place.data / "train" / name), random.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    plain = place.convert(additional=None, split="grouped")
    (left, *_) = [problem["file_name"] for problem in plain.left_out if problem["rule"] == "split_gap"]
    place.corrections.redraw((place.data / "train" / left).read_bytes(), left, drawn(), {})
    place.corrections.redraw(NEW, "new.png", drawn(), {})
    manifest = place.convert(split="grouped")
    assert manifest.splits["train"].examples == plain.splits["train"].examples + 1
    said = [problem for problem in manifest.left_out if problem["split"] == "additional"]
    assert [(problem["rule"], Path(problem["file_name"]).stem.split("-")[0]) for problem in said] == [
        ("split_gap", Path(left).stem)
    ]
