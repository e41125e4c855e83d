import hashlib
import io
import json
import multiprocessing
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from seg.data.build import mask_names
from seg.data.coco import ImageEntry
from seg.data.convert import BadDataError
from seg.data.demo import _exif_orientation
from seg.data.manifest import MANIFEST
from seg.data.record import Converted, RecordWriter, Refused, Task, bilevel_png
from seg.errors import UserError
from tests.small_export import content, run, write_export, write_image


@pytest.fixture
def data(tmp_path):
    return write_export(tmp_path / "export")


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "workspace"


def nothing_is_trusted(workspace: Path) -> bool:
    return not list((workspace / "datasets").iterdir()) and not [
        p for p in (workspace / "building").iterdir() if p.is_dir()
    ]


def test_records_examples_masks_and_manifest(data, workspace):
    manifest, line = run(data, workspace)
    assert line.startswith("converted 6 images in ")
    assert line.endswith(str(manifest.folder))
    assert manifest.folder == workspace / "datasets" / manifest.key
    assert manifest.name == "export"
    assert manifest.settings == {"categories": "all", "crowds": "ignore", "exif": "ignore", "overlaps": "union"}
    assert manifest.categories == [{"id": 1, "name": "lesion", "annotations": 6, "used": True}]
    assert manifest.left_out == []
    assert list(manifest.splits) == ["train", "val", "test"]
    # The square covers rows and columns 2 to 5 of 8, so 1 and 2 of 4: 4 of 16 pixels.
    assert (manifest.splits["val"].examples, manifest.splits["val"].empty) == (2, 0)
    assert manifest.splits["val"].foreground == 0.25
    record = manifest.records("val")[1]
    assert record[..., 3].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert record[0, 0, :3].tolist() == [63, 63, 63]  # (101 + 3 × 50) / 4 = 62.75
    _, example = manifest.examples("val")
    assert (example.image_id, example.file_name, example.height, example.width) == (1, "valid/image1.png", 8, 8)
    assert example.sha256 == hashlib.sha256((data / "valid" / "image1.png").read_bytes()).hexdigest()
    picture = cv2.imread(str(manifest.folder / "val_mask" / "image1.png"), cv2.IMREAD_UNCHANGED)
    assert picture.tolist() == [[0, 0, 0, 0], [0, 255, 255, 0], [0, 255, 255, 0], [0, 0, 0, 0]]


def test_joined_by_image_id_not_by_position(tmp_path, workspace):
    document = content(2)
    document["annotations"] = [document["annotations"][1]]
    manifest, _ = run(write_export(tmp_path / "export", train=document), workspace)
    assert manifest.records("train")[..., 3].any(axis=(1, 2)).tolist() == [False, True]
    assert manifest.splits["train"].empty == 1


def test_split_key_does_not_depend_on_image_size(data, workspace):
    assert run(data, workspace)[0].splits == run(data, workspace)[0].splits
    small, large = run(data, workspace)[0], run(data, workspace, image_size=8)[0]
    assert {name: split.key for name, split in small.splits.items()} == {
        name: split.key for name, split in large.splits.items()
    }


def crowd_export(tmp_path, *, everywhere: bool) -> Path:
    documents = {}
    for split in ("train", "valid", "test"):
        documents[split] = content(2)
        for annotation in documents[split]["annotations"]:
            annotation["iscrowd"] = int(everywhere or (split == "train" and annotation["id"] == 0))
    return write_export(tmp_path / "export", **documents)


def test_crowd_is_ignored(tmp_path, workspace):
    manifest, _ = run(crowd_export(tmp_path, everywhere=False), workspace)
    assert manifest.records("train")[0, 1:3, 1:3, 3].tolist() == [[255, 255], [255, 255]]
    assert manifest.splits["train"].empty == 1
    assert next(manifest.examples("train")).ignore is not None
    picture = cv2.imread(str(manifest.folder / "train_mask" / "image0.png"), cv2.IMREAD_UNCHANGED)
    assert sorted(np.unique(picture)) == [0, 128]


def test_crowd_as_foreground(tmp_path, workspace):
    manifest, _ = run(crowd_export(tmp_path, everywhere=False), workspace, crowds="foreground")
    assert manifest.splits["train"].empty == 0


def test_crowds_everywhere_are_foreground(tmp_path, workspace):
    manifest, _ = run(crowd_export(tmp_path, everywhere=True), workspace)
    assert manifest.settings["crowds"] == "foreground"
    assert manifest.splits["train"].foreground == 0.25


def overlapping_export(tmp_path) -> Path:
    # Columns 4 to 7 beside the square's 2 to 5, in its rows 2 to 5: 2 columns of 4 pixels are shared.
    document = content(2)
    other = {"id": 9, "image_id": 0, "category_id": 1, "segmentation": [[4, 2, 8, 2, 8, 6, 4, 6]]}
    document["annotations"].append(other)
    return write_export(tmp_path / "export", train=document)


def test_overlaps_are_foreground_once(tmp_path, workspace):
    manifest, _ = run(overlapping_export(tmp_path), workspace, overlaps="union", image_size=8)
    assert int((manifest.records("train")[0, ..., 3] == 1).sum()) == 16 + 16 - 8


def test_overlaps_are_refused(tmp_path, workspace):
    data = overlapping_export(tmp_path)
    with pytest.raises(BadDataError, match="image0.png: overlap: annotations 0 and 9 must not overlap, and share 8 "):
        run(data, workspace, overlaps="refuse")
    manifest, _ = run(data, workspace, overlaps="refuse", on_bad="skip")
    assert [(problem["file_name"], problem["rule"]) for problem in manifest.left_out] == [("image0.png", "overlap")]


def exif_export(tmp_path, height: int, width: int) -> Path:
    """An image stored 8 high and 4 wide, that EXIF turns; the annotations say `height` × `width`."""
    document = content(2)
    document["images"][0] |= {"file_name": "turned.jpg", "height": height, "width": width}
    document["annotations"] = []
    data = write_export(tmp_path / "export", train=document)
    stored = np.zeros((8, 4, 3), np.uint8)
    stored[:4] = 255  # white above black
    jpeg = cv2.imencode(".jpg", stored)[1].tobytes()
    (data / "train" / "turned.jpg").write_bytes(jpeg[:2] + _exif_orientation(6) + jpeg[2:])
    return data


def test_exif_ignored(tmp_path, workspace):
    manifest, _ = run(exif_export(tmp_path, 8, 4), workspace, exif="ignore")
    image = manifest.records("train")[0, ..., 0].astype(int)
    assert image[0].min() > 200
    assert image[3].max() < 50


def test_exif_rotated(tmp_path, workspace):
    manifest, _ = run(exif_export(tmp_path, 4, 8), workspace, exif="rotate")
    image = manifest.records("train")[0, ..., 0].astype(int)
    assert image[:, 3].min() > 200  # turned clockwise, above becomes right
    assert image[:, 0].max() < 50


def test_categories_choose_the_foreground(tmp_path, workspace):
    documents = {}
    for split in ("train", "valid", "test"):
        documents[split] = content(2)
        documents[split]["categories"].append({"id": 7, "name": "cyst"})
        documents[split]["annotations"][1]["category_id"] = 7
    manifest, _ = run(write_export(tmp_path / "export", **documents), workspace, categories="cyst")
    assert manifest.records("train")[..., 3].any(axis=(1, 2)).tolist() == [False, True]
    assert [(category["name"], category["used"]) for category in manifest.categories] == [
        ("lesion", False),
        ("cyst", True),
    ]


def test_unknown_category(data, workspace):
    with pytest.raises(UserError, match="got 'tumor'; known: lesion"):
        run(data, workspace, categories="tumor")
    assert not workspace.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_bad": "ignore"}, "on_bad must be one of fail, skip, got 'ignore'"),
        ({"crowds": "drop"}, "crowds must be one of ignore, foreground, got 'drop'"),
        ({"exif": "turn"}, "exif must be one of ignore, rotate, got 'turn'"),
        ({"overlaps": "exclude"}, "overlaps must be one of union, refuse, got 'exclude'"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
        ({"group_pattern": "a", "group_column": "b"}, "must not both be given, got 'a' and 'b'; drop one"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"jobs": -1}, "jobs must be at least 0, got -1"),
    ],
)
def test_arguments(data, workspace, settings, message):
    with pytest.raises(UserError, match=message):
        run(data, workspace, **settings)


def test_workspace_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be writable and have room"):
        run(data, tmp_path / "file")


def test_split_without_images(tmp_path, workspace):
    with pytest.raises(UserError, match="split val must have at least one usable image"):
        run(write_export(tmp_path / "export", valid=content(0)), workspace)


def test_annotations_that_cannot_be_read(data, workspace):
    (data / "train" / "_annotations.coco.json").unlink()
    (data / "train" / "_annotations.coco.json").mkdir()
    with pytest.raises(UserError, match="must be a file, and is none"):
        run(data, workspace)


def spoil(data: Path) -> None:
    """Five bad images of six in train; only image5 is good."""
    document = content(6)
    document["annotations"][0]["segmentation"] = [[1, 1, 2]]
    document["images"][4]["width"] = 9
    write_export(data, train=document)
    (data / "train" / "image1.png").write_text("<html>")
    (data / "train" / "image2.png").unlink()
    (data / "train" / "image3.png").unlink()
    (data / "train" / "image3.png").symlink_to("/etc/hostname")
    write_image(data / "train" / "image4.png")


def test_problems_fail_with_the_full_list(data, workspace):
    spoil(data)
    with pytest.raises(
        BadDataError, match=r"3 are broken, first .*image image0.png, annotation 0: odd_coordinates"
    ) as caught:
        run(data, workspace)
    # what can be known without decoding
    assert [problem.rule for problem in caught.value.problems] == ["odd_coordinates", "missing_file", "link_outside"]
    assert len((workspace / "problems.txt").read_text().splitlines()) == 3
    assert not list((workspace / "datasets").iterdir())


def test_problems_of_image_files_fail_too(data, workspace):
    (data / "train" / "image1.png").write_text("<html>")
    with pytest.raises(BadDataError, match=r"image1.png: image_refused: an image must be a JPEG.*on_bad=skip"):
        run(data, workspace)
    assert nothing_is_trusted(workspace)


def test_problems_are_skipped_and_recorded(data, workspace):
    spoil(data)
    manifest, _ = run(data, workspace, on_bad="skip")
    assert manifest.splits["train"].examples == 1
    assert manifest.records("train").shape == (1, 4, 4, 4)
    assert [example.file_name for example in manifest.examples("train")] == ["train/image5.png"]
    assert manifest.records("train")[0, 0, 0, 0] == 39  # (5 + 3 × 50) / 4 = 38.75: the row of image5
    assert {(problem["file_name"], problem["rule"]) for problem in manifest.left_out} == {
        ("image0.png", "odd_coordinates"),
        ("image1.png", "image_refused"),
        ("image2.png", "missing_file"),
        ("image3.png", "link_outside"),
        ("image4.png", "size_disagrees"),
    }


def test_a_skipping_conversion_is_not_up_to_date_for_one_that_fails(data, workspace):
    (data / "train" / "image1.png").write_text("<html>")
    run(data, workspace, on_bad="skip")
    with pytest.raises(BadDataError, match="image_refused"):
        run(data, workspace)


def test_skipping_everything_is_refused(data, workspace):
    for number in range(2):
        (data / "train" / f"image{number}.png").write_text("<html>")
    with pytest.raises(UserError, match="split train must have at least one usable image"):
        run(data, workspace, on_bad="skip")
    assert nothing_is_trusted(workspace)


def test_annotations_for_unknown_images_are_no_failure(tmp_path, workspace):
    document = content(2)
    document["annotations"][1]["image_id"] = 99
    manifest, _ = run(write_export(tmp_path / "export", train=document), workspace)
    assert [problem["rule"] for problem in manifest.left_out] == ["unknown_image"]


def die(self: RecordWriter, task: Task) -> Converted | Refused:
    if task.file_name == "train/image1.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    return RecordWriter.__call__(self, task)


class DeadlyWriter(RecordWriter):
    __call__ = die


def test_a_worker_that_dies_costs_its_image(data, workspace, monkeypatch):
    monkeypatch.setattr("seg.data.build.RecordWriter", DeadlyWriter)
    with pytest.raises(BadDataError, match=rf"image1.png: worker_died: .*\({-signal.SIGSEGV}\)"):
        run(data, workspace)
    assert nothing_is_trusted(workspace)
    manifest, _ = run(data, workspace, on_bad="skip")
    assert [(problem["file_name"], problem["rule"]) for problem in manifest.left_out] == [("image1.png", "worker_died")]
    assert manifest.splits["train"].examples == 1


def task(data: Path, **changes) -> Task:
    path = data / "train" / "image0.png"
    values = {
        "split": "train",
        "row": 0,
        "path": path,
        "file_name": "train/image0.png",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "image": ImageEntry(id=0, file_name="image0.png", height=8, width=8),
        "annotations": (),
        "mask_name": "image0.png",
    }
    return Task(**values | changes)


@pytest.mark.parametrize(
    ("changes", "rule"), [({"sha256": "other"}, "changed_file"), ({"path": Path("/nowhere.png")}, "unreadable_file")]
)
def test_files_that_change_or_vanish_meanwhile(data, tmp_path, changes, rule):
    writer = RecordWriter(tmp_path, {"train": 0}, 4, crowds="ignore", exif="ignore", overlaps="union")
    refused = writer(task(data, **changes))
    assert isinstance(refused, Refused)
    assert refused.broken.rule == rule
    assert bool(refused.sha256) == (rule == "changed_file")


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (8, 9), (5, 300)])
def test_a_picture_of_one_bit_a_pixel(shape):
    mask = np.random.default_rng(1).integers(0, 2, shape, np.uint8) * np.uint8(255)
    png = bilevel_png(mask)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), mask)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), mask > 0)


def test_mask_names_differ_and_stay_in_their_folder():
    names = mask_names(["a.jpg", "a.png", "A.png", "inner/b.jpg", "inner\\c.jpg", "x" * 300 + ".jpg", "a.b.jpg"])
    assert names[:5] == ["a.png", "a_2.png", "A_3.png", "inner_b.png", "inner_c.png"]
    assert names[6] == "a.b.png"
    assert len(names[5]) < 80


def test_no_process_is_left(data, workspace):
    run(data, workspace, jobs=2)
    assert not multiprocessing.active_children()


def test_manifest_is_readable_json(data, workspace):
    manifest, _ = run(data, workspace)
    assert json.loads((manifest.folder / MANIFEST).read_text())["image_size"] == 4
