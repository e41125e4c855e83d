import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools.coco import COCO

from seg.data import coco_writer
from seg.data.coco import AnnotationFile, Category, ImageEntry
from seg.data.coco_reader import read_annotations
from seg.data.coco_writer import CocoWriter, annotation_of
from seg.data.masks import example_mask
from seg.errors import UserError

LESION = Category(id=1, name="lesion")
BOX = np.zeros((5, 7), np.uint8)
BOX[1:3, 2:6] = 1  # rows 1 and 2, columns 2 to 5


def read(path: Path) -> AnnotationFile:
    return read_annotations(path, path.read_bytes(), "train")


def test_run_lengths() -> None:
    assert annotation_of(BOX, image_id=3, category_id=1) == {
        "image_id": 3,
        "category_id": 1,
        # Down the columns 11 background, 2 foreground, 3 background, 2, 3, 2, 3, 2 and 7 at the end. Each is one
        # character counted from '0' (11 is ';'), from the fourth on less the one two before (7 - 3 is '4').
        "segmentation": {"size": [5, 7], "counts": ";23000004"},
        "area": 8,
        "bbox": [2, 1, 4, 2],
        "iscrowd": 0,
    }


def test_polygons() -> None:
    found = annotation_of(BOX, image_id=3, category_id=1, segmentation="polygon")
    assert found["segmentation"] == [[2, 1, 6, 1, 6, 3, 2, 3]]
    assert (found["area"], found["bbox"], found["iscrowd"]) == (8, [2, 1, 4, 2], 0)


def test_a_crowd_is_always_run_lengths() -> None:
    found = annotation_of(BOX, image_id=3, category_id=1, segmentation="polygon", crowd=True)
    assert found == annotation_of(BOX, image_id=3, category_id=1) | {"iscrowd": 1}


@pytest.mark.parametrize(("form", "empty"), [("rle", {"size": [5, 7], "counts": "S1"}), ("polygon", [])])
def test_an_empty_mask(form: str, empty: object) -> None:
    found = annotation_of(np.zeros((5, 7), np.uint8), image_id=3, category_id=1, segmentation=form)
    assert found["segmentation"] == empty
    assert (found["area"], found["bbox"]) == (0, [0, 0, 0, 0])


@pytest.mark.parametrize("mask", [BOX * 255, BOX.astype(bool), BOX.astype(float), BOX.T.copy().T])
def test_any_kind_of_mask(mask: np.ndarray) -> None:
    for form in coco_writer.SEGMENTATIONS:
        expected = annotation_of(BOX, image_id=1, category_id=1, segmentation=form)
        assert annotation_of(mask, image_id=1, category_id=1, segmentation=form) == expected


def test_unknown_segmentation() -> None:
    with pytest.raises(UserError, match="segmentation must be one of rle, polygon, got 'box'"):
        annotation_of(BOX, image_id=1, category_id=1, segmentation="box")


def test_polygons_that_would_change_the_mask_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_writer, "outlines", lambda mask: [[0, 0, 1, 0, 1, 1, 0, 1]])
    with pytest.raises(RuntimeError, match="1 polygons must give back the mask of 8 pixels; use segmentation=rle"):
        annotation_of(BOX, image_id=1, category_id=1, segmentation="polygon")


def test_a_results_entry_loads_into_pycocotools(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    with CocoWriter(path, categories=[LESION]) as writer:
        writer.add_image(4, "a.png", height=5, width=7)
    results = tmp_path / "results.json"
    results.write_text(json.dumps([annotation_of(BOX, image_id=4, category_id=1) | {"score": 0.5}]))
    loaded = COCO(str(path)).loadRes(str(results))
    assert np.array_equal(loaded.annToMask(loaded.anns[1]), BOX)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    with CocoWriter(path, categories=[LESION], info={"tool": "test"}) as writer:
        for image in (4, 9):
            writer.add_image(image, f"ü{image}.png", height=5, width=7)
            writer.add_annotation(annotation_of(BOX, image_id=image, category_id=1))
        assert not path.exists()
    assert (writer.images, writer.annotations) == (2, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["coco.json"]
    assert json.loads(path.read_text())["info"] == {"tool": "test"}
    found = read(path)
    assert found.problems == ()
    assert found.categories == (LESION,)
    assert found.images == tuple(ImageEntry(id=image, file_name=f"ü{image}.png", height=5, width=7) for image in (4, 9))
    assert [(annotation.id, annotation.image_id) for annotation in found.annotations] == [(1, 4), (2, 9)]


def test_an_empty_file(tmp_path: Path) -> None:
    with CocoWriter(tmp_path / "coco.json", categories=[LESION]):
        pass
    found = read(tmp_path / "coco.json")
    assert (found.images, found.annotations, found.problems) == ((), (), ())


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), CocoWriter(path, categories=[LESION]) as writer:  # noqa: PT012
        writer.add_image(1, "a.png", height=5, width=7)
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["coco.json"]
    assert path.read_text() == "old"


pictures = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 1, 255])
)


@given(st.lists(pictures, min_size=1, max_size=3), st.sampled_from(coco_writer.SEGMENTATIONS))
@settings(max_examples=150, deadline=None)
def test_masks_with_ignored_regions_come_back(tmp_path_factory, masks, form) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    with CocoWriter(path, categories=[LESION]) as writer:
        for image, mask in enumerate(masks):
            writer.add_image(image, f"{image}.png", height=mask.shape[0], width=mask.shape[1])
            writer.add_annotation(annotation_of(mask == 1, image_id=image, category_id=1, segmentation=form))
            writer.add_annotation(annotation_of(mask == 255, image_id=image, category_id=1, crowd=True))
    found = read(path)
    assert found.problems == ()
    for image, mask in enumerate(masks):
        own = [annotation for annotation in found.annotations if annotation.image_id == image]
        assert np.array_equal(example_mask(own, *mask.shape, crowds="ignore")[0], mask)


def test_polygons_longer_than_the_reader_allows() -> None:
    mask = np.zeros((2900, 2900), np.uint8)
    mask[::2] = 1  # 1450 stripes of 2900 × 1: outlines of 1450 · 5802; allowed are 4,000,000 and half of 8,410,000
    with pytest.raises(UserError, match="at most 8205000 pixels long together, got 8412900; use segmentation=rle"):
        annotation_of(mask, image_id=1, category_id=1, segmentation="polygon")
