"""Every rule of the audit, each on a small export that breaks it and on one that does not."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg.data.audit import audit
from seg.data.audit.finding import Finding
from seg.data.convert import convert
from seg.errors import UserError
from tests.small_export import content, write_export

SIDE = 128
TRIANGLE = [20, 20, 100, 20, 20, 100]
BOX = [20, 20, 60, 20, 60, 60, 20, 60]
FOLDERS = ("train", "valid", "test")


def annotations(images: int = 4, segmentation: list[float] | None = None) -> dict:
    """A valid file: images `imageA.png`…, names without numbers, each with a triangle."""
    found = content(images, height=SIDE, width=SIDE)
    for index, (image, annotation) in enumerate(zip(found["images"], found["annotations"], strict=True)):
        image["file_name"] = f"image{chr(97 + index)}.png"
        annotation["segmentation"] = [segmentation or TRIANGLE]
        annotation["area"] = 3200 if segmentation is None else None
    return found


class Workshop:
    """An export with noise for pictures, to be damaged; then audited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents = {split: annotations() for split in FOLDERS}
        for start, split in enumerate(FOLDERS):
            for image in self.contents[split]["images"]:
                image["id"] += 100 * start
            for annotation in self.contents[split]["annotations"]:
                annotation["image_id"] += 100 * start

    def write(self) -> None:
        write_export(self.folder / "data", **self.contents)
        random = np.random.default_rng(0)
        for path in sorted((self.folder / "data").rglob("*.png")):
            self.paint(path, random.integers(0, 256, (SIDE, SIDE, 3), np.uint8))

    def path(self, name: str) -> Path:
        return self.folder / "data" / name

    def paint(self, path: Path, image: np.ndarray, *options: int) -> None:
        path.write_bytes(cv2.imencode(path.suffix, image, list(options))[1].tobytes())

    def findings(self, **options) -> dict[str, Finding]:
        options = {"image_size": 32, "on_bad": "skip", "jobs": 1, "progress": False} | options
        manifest = convert(self.folder / "data", self.folder / "workspace", **options)
        return {finding.rule: finding for finding in audit(self.folder / "data", manifest)}


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def test_nothing_to_object(workshop):
    workshop.write()
    found = workshop.findings()
    assert {finding.severity for finding in found.values()} <= {"info", "warning"}
    # every image has the same triangle, so a constant mask is perfect and copying is no better
    assert set(found) == {"lookup_score", "class_balance", "object_sizes", "resolution_ceiling"}
    assert found["lookup_score"].severity == "info"


def test_identical_across_and_within(workshop):
    workshop.write()
    original = workshop.path("train/imagea.png").read_bytes()
    workshop.path("test/imageb.png").write_bytes(original)
    workshop.path("train/imagec.png").write_bytes(original)
    found = workshop.findings()
    assert (found["identical_across_splits"].severity, found["identical_across_splits"].count) == ("error", 1)
    assert "train/imagea.png" in found["identical_across_splits"].examples[0].caption
    assert found["identical_within_split"].count == 1


def test_near_identical(workshop):
    workshop.write()
    smooth = cv2.GaussianBlur(np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), np.uint8), (0, 0), 2)
    workshop.paint(workshop.path("train/imagea.png"), smooth)
    copy = cv2.imdecode(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    workshop.paint(workshop.path("valid/imagea.png"), copy)
    found = workshop.findings()["near_identical_across_splits"]
    assert (found.severity, found.count) == ("error", 1)


def test_series_of_alike_neighbours(workshop):
    for start, split in enumerate(FOLDERS):
        for index, image in enumerate(workshop.contents[split]["images"]):
            image["file_name"] = f"slice{3 * index + start:03d}.png"
    workshop.write()
    # slices 0 to 11: noise that drifts into other noise
    random = np.random.default_rng(1)
    ends = random.integers(0, 256, (2, SIDE, SIDE, 3))
    for split in FOLDERS:
        for path in workshop.path(split).glob("*.png"):
            far = int(path.stem[-3:]) / 11
            workshop.paint(path, (ends[0] * (1 - far) + ends[1] * far).astype(np.uint8))
    found = workshop.findings()["series_across_splits"]
    assert (found.severity, found.count) == ("error", 8)
    assert "100%" in found.title
    assert found.examples[0].picture is not None


def test_lookup_without_neighbours(workshop):
    # Slices 0 to 3, 12 to 15 and 24 to 27: within 5 numbers no training image, so both ways copy the same.
    for start, split in enumerate(FOLDERS):
        for index, image in enumerate(workshop.contents[split]["images"]):
            image["file_name"] = f"slice{12 * start + index:03d}.png"
    workshop.write()
    found = workshop.findings()["lookup_score"]
    assert "scores test Dice 1.000; 1.000 without the neighbours within ±5 numbers" in found.title
    assert "memory of neighbours" not in found.meaning
    assert ("test: nearest image beyond ±5", 1.0) in found.bars.values


def test_numbers_without_meaning(workshop):
    for start, split in enumerate(FOLDERS):
        for index, image in enumerate(workshop.contents[split]["images"]):
            image["file_name"] = f"{3 * index + start}.png"
    workshop.write()
    assert workshop.findings()["series_across_splits"].severity == "info"


def test_boxes(workshop):
    for split in FOLDERS:
        for annotation in workshop.contents[split]["annotations"]:
            annotation["segmentation"] = [BOX]
            annotation["area"] = 1600
    workshop.write()
    found = workshop.findings()["boxes"]
    assert (found.severity, found.count, found.title) == (
        "warning",
        12,
        "All 12 annotations are axis-aligned rectangles",
    )


def test_labels(workshop):
    train = workshop.contents["train"]
    del train["annotations"][0]  # imagea stays without
    add = [
        {"segmentation": [[110, 110, 112, 110, 112, 112, 110, 112]], "area": 4},  # stray: 2 × 2 beside the triangle
        {"segmentation": [], "area": 0},  # nothing
        {"segmentation": [TRIANGLE], "area": 3200},  # drawn twice
        {"segmentation": [[20, 20, 90, 20, 90, 40, 20, 41]], "area": 1450},  # over a corner of the triangle
        {"segmentation": [[70, 70, 120, 70, 120, 120, 70, 119]], "area": 900},  # about 2500
        {"segmentation": [TRIANGLE], "area": 3200, "iscrowd": 1},
    ]
    for index, annotation in enumerate(add):
        train["annotations"].append(
            {"id": 50 + index, "image_id": 1 + index % 3, "category_id": 1, "iscrowd": 0} | annotation
        )
    train["annotations"].append({"id": 90, "image_id": 77, "category_id": 1, "segmentation": [TRIANGLE], "area": 1})
    workshop.write()
    found = workshop.findings()
    counts = {
        "unlabelled_images": 1,
        "stray_annotations": 1,
        "degenerate_annotations": 1,
        "vanishing_annotations": 1,  # the stray one: half a pixel of 32
        "drawn_twice": 1,
        "overlaps": 1,
        "area_disagrees": 1,
        "crowds": 1,
        "unknown_images": 1,
    }
    assert {rule: found[rule].count for rule in counts} == counts
    assert "ignored" in found["crowds"].title


def test_every_annotation_a_crowd(workshop):
    for split in FOLDERS:
        for annotation in workshop.contents[split]["annotations"]:
            annotation["iscrowd"] = 1
    workshop.write()
    found = workshop.findings()["crowds"]
    assert (found.severity, found.count) == ("warning", 12)
    assert "foreground" in found.title


def test_bookkeeping(workshop):
    for split in FOLDERS:
        workshop.contents[split] = annotations()
        workshop.contents[split]["categories"].append({"id": 0, "name": "parent"})
    workshop.contents["train"]["annotations"].reverse()
    workshop.write()
    found = workshop.findings()
    assert found["empty_categories"].title == "1 category without annotations: 'parent'"
    assert found["annotation_order"].count == 4  # all four change places
    assert found["ids_restart"].count == 4  # 0 to 3 in each split


def test_images(workshop):
    for name in ("imagec.png", "imaged.png"):
        image = next(entry for entry in workshop.contents["train"]["images"] if entry["file_name"] == name)
        image["width"] = 2 * SIDE
    workshop.write()
    random = np.random.default_rng(2)
    grey = random.integers(0, 256, (SIDE, SIDE, 1), np.uint8)
    workshop.paint(workshop.path("train/imagea.png"), np.repeat(grey, 3, axis=2))
    workshop.paint(workshop.path("train/imageb.png"), np.full((SIDE, SIDE, 3), 7, np.uint8))
    workshop.paint(workshop.path("train/imagec.png"), random.integers(0, 65536, (SIDE, 2 * SIDE, 3), np.uint16))
    workshop.paint(workshop.path("train/imaged.png"), random.integers(0, 256, (SIDE, 2 * SIDE, 4), np.uint8))
    workshop.path("test/imagea.png").write_bytes(b"<html>")
    flat = np.where(grey[..., 0] > 128, np.uint8(255), np.uint8(0))
    workshop.paint(workshop.path("test/imageb.png"), flat, cv2.IMWRITE_PNG_BILEVEL, 1)
    found = workshop.findings()
    expected = {"grey_as_colour": 1, "blank_images": 1, "sixteen_bit": 1, "alpha": 1, "mixed_sizes": 2, "palette": 1}
    assert {rule: found[rule].count for rule in expected} == expected
    assert (found["left_out_image_refused"].severity, found["left_out_image_refused"].count) == ("error", 1)


def test_ceiling_by_hand(workshop):
    # A line of one pixel's width in 128 is a quarter of a pixel in 32 and lost: Dice 0. At 128 all of it is there: 1.
    for split in FOLDERS:
        for annotation in workshop.contents[split]["annotations"]:
            annotation["segmentation"] = [[10, 50, 110, 50, 110, 51, 10, 51]]
            annotation["area"] = 100
    workshop.write()
    found = workshop.findings()["resolution_ceiling"]
    assert found.severity == "warning"
    assert found.bars is not None
    assert found.bars.values[0] == ("32×32", 0.0)
    assert found.bars.values[2] == ("128×128", 1.0)
    assert found.remedy == "Use image_size=128."


def test_unreadable_export(workshop):
    workshop.write()
    manifest = convert(workshop.folder / "data", workshop.folder / "workspace", image_size=32, jobs=1, progress=False)
    annotation_file = workshop.path("train/_annotations.coco.json")
    annotation_file.write_text(json.dumps([]))
    with pytest.raises(UserError, match="must hold a JSON object"):
        audit(workshop.folder / "data", manifest)
    annotation_file.unlink()
    annotation_file.mkdir()
    with pytest.raises(UserError, match="must be a file, and is none"):
        audit(workshop.folder / "data", manifest)


def test_no_foreground(workshop):
    for found in workshop.contents.values():
        found["annotations"] = []
    workshop.write()
    finding = workshop.findings()["no_foreground"]
    assert (finding.severity, finding.count) == ("error", 12)
    assert finding.title == "No image of train, val, test has foreground (12 images)"


def test_no_foreground_in_one_split(workshop):
    workshop.contents["test"]["annotations"] = []
    workshop.write()
    finding = workshop.findings()["no_foreground"]
    assert finding.title == "No image of test has foreground (4 images)"


def test_area_that_is_no_number(workshop):
    workshop.contents["train"]["annotations"][0]["area"] = "big"
    workshop.write()
    found = workshop.findings()
    assert found["area_no_number"].count == 1
    assert "annotation 0: area_type: area must be a number of pixels, got 'big'" in (
        found["area_no_number"].examples[0].caption
    )
    assert not [rule for rule in found if rule.startswith("left_out")]
