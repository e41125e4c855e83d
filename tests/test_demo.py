import json
import time

import pytest

from seg.data.coco_reader import read_annotations
from seg.data.convert import convert
from seg.data.demo import SLICES, write_demo
from seg.data.images import decode_image
from seg.data.manifest import IGNORE


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    write_demo(folder)
    assert time.monotonic() - started < 20  # 1.2 s on an idle machine
    return folder


def document(folder, split="train"):
    return json.loads((folder / split / "_annotations.coco.json").read_text())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        write_demo(tmp_path / name, seed=seed, train=1, valid=1, test=1)
    assert files(tmp_path / "first") == files(tmp_path / "again")
    assert files(tmp_path / "first") != files(tmp_path / "other")


def test_counts(demo):
    assert [len(document(demo, split)["images"]) for split in ("train", "valid", "test")] == [200, 50, 50]


def test_no_patient_is_in_two_splits(demo):
    patients = [
        {image["file_name"][:9] for image in document(demo, split)["images"]} for split in ("train", "valid", "test")
    ]
    assert not patients[0] & patients[1]
    assert not (patients[0] | patients[1]) & patients[2]


def test_breaks_no_rule(demo):
    for split in ("train", "valid", "test"):
        path = demo / split / "_annotations.coco.json"
        assert read_annotations(path, path.read_bytes(), split).problems == ()


def test_is_as_awkward_as_promised(demo):
    train = document(demo)
    segmentations = [annotation["segmentation"] for annotation in train["annotations"]]
    assert any(isinstance(one, list) and len(one) == 2 for one in segmentations)
    assert any(isinstance(one, dict) and isinstance(one["counts"], str) for one in segmentations)
    assert any(isinstance(one, dict) and isinstance(one["counts"], list) for one in segmentations)
    assert sum(annotation["iscrowd"] for annotation in train["annotations"]) == 1
    assert min(annotation["area"] for annotation in train["annotations"]) < 20
    assert {annotation["category_id"] for annotation in train["annotations"]} == {1, 2}
    annotated = {annotation["image_id"] for annotation in train["annotations"]}
    assert len(annotated) == 200 - 20 * 2  # the first and the last slice of each patient have no lesion
    assert len({(image["height"], image["width"]) for image in train["images"]}) == 5
    assert document(demo, "valid")["images"][0]["id"] == 0
    order = [annotation["image_id"] for annotation in train["annotations"]]
    assert order != sorted(order)


def test_images_are_grey_and_colour_and_one_is_rotated_by_exif(demo):
    rotated = [
        path.name
        for path in sorted((demo / "train").glob("*.jpg"))
        if decode_image(path.read_bytes()).shape != decode_image(path.read_bytes(), exif=True).shape
    ]
    assert rotated == ["patient01_slice003.jpg"]
    colour = decode_image((demo / "train" / "patient03_slice000.jpg").read_bytes())
    grey = decode_image((demo / "train" / "patient01_slice000.jpg").read_bytes())
    assert (colour[..., 0] != colour[..., 1]).any()
    assert (grey[..., 0] == grey[..., 1]).all()


def test_converts(demo, tmp_path):
    manifest = convert(demo, tmp_path, image_size=64, progress=False)
    train = manifest.splits["train"]
    assert (train.examples, train.empty) == (200, 40)
    assert 0.02 < train.foreground < 0.05
    assert (manifest.records("train")[..., 3] == IGNORE).any()
    assert manifest.left_out == []
    assert SLICES == 10
