from pathlib import Path

import pytest

from seg.data.layout import find_splits
from seg.errors import UserError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_roboflow(tmp_path):
    for split in ("train", "valid", "test"):
        touch(tmp_path / split / "_annotations.coco.json")
    train, val, test = find_splits(tmp_path)
    assert (train.name, val.name, test.name) == ("train", "val", "test")
    assert val.annotations == tmp_path / "valid" / "_annotations.coco.json"
    assert val.images == tmp_path / "valid"


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
@pytest.mark.parametrize("images", ["{}", "images/{}"])
def test_standard_coco(tmp_path, spelling, images):
    for split in ("train", spelling, "test"):
        touch(tmp_path / "annotations" / f"instances_{split}2017.json")
        (tmp_path / images.format(f"{split}2017")).mkdir(parents=True)
    touch(tmp_path / "annotations" / "captions_train2017.json")
    train, val, _ = find_splits(tmp_path)
    assert train.annotations.name == "instances_train2017.json"
    assert val.images == tmp_path / images.format(f"{spelling}2017")


def test_image_folder_may_be_spelled_another_way(tmp_path):
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        touch(tmp_path / "annotations" / f"instances_{split}.json")
        (tmp_path / "images" / folder).mkdir(parents=True)
    assert find_splits(tmp_path)[1].images == tmp_path / "images" / "valid"


def test_one_image_folder_for_all(tmp_path):
    for split in ("train", "val", "test"):
        touch(tmp_path / "annotations" / f"instances_{split}.json")
    (tmp_path / "images").mkdir()
    assert {split.images for split in find_splits(tmp_path)} == {tmp_path / "images"}


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="is not a folder; check the path"):
        find_splits(tmp_path / "nowhere")


def test_no_annotations(tmp_path):
    with pytest.raises(UserError, match=r"holds no COCO annotations.*_annotations.coco.json.*instances_train.json"):
        find_splits(tmp_path)


def test_missing_split(tmp_path):
    touch(tmp_path / "train" / "_annotations.coco.json")
    with pytest.raises(UserError, match=r"missing: val, test \(found: train\)"):
        find_splits(tmp_path)


def test_split_twice(tmp_path):
    for split in ("train", "val", "valid", "test"):
        touch(tmp_path / split / "_annotations.coco.json")
    with pytest.raises(UserError, match="split val must be there once"):
        find_splits(tmp_path)


def test_no_image_folder(tmp_path):
    touch(tmp_path / "annotations" / "instances_train.json")
    with pytest.raises(UserError, match="has no image folder"):
        find_splits(tmp_path)
