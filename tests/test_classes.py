"""Classes of their own: from the option to masks at any size, and back to COCO. `binary` is as if there were none."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seg.data.baselines import baselines
from seg.data.classes import find_classes
from seg.data.coco import Annotation, Category
from seg.data.convert import BadDataError, convert
from seg.data.export_coco import export_coco
from seg.data.images import resize_mask
from seg.data.manifest import BINARY_CLASSES, MANIFEST, Manifest
from seg.data.masks import example_mask, own_mask, region
from seg.data.record_faults import record_faults
from seg.data.segmentation import RunLengths
from seg.errors import UserError
from tests.class_export import two_classes, write_two_classes
from tests.small_export import content, write_export

CATEGORIES = [Category(id=2, name="core"), Category(id=1, name="edema"), Category(id=3, name="vessel")]
NAMES = {"core", "edema", "vessel"}


def run(data: Path, **options: Any) -> Manifest:
    workspace = data.parent / "workspace"
    return convert(data, workspace, **{"image_size": 8, "jobs": 1, "progress": False} | options)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_two_classes(tmp_path / "export")


class TestOption:
    def test_binary_is_one_class_of_all_categories(self) -> None:
        found = find_classes(CATEGORIES, NAMES, NAMES, "binary")
        assert (found.names, found.setting) == (("foreground",), "binary")
        assert found.labels == {"core": 1, "edema": 1, "vessel": 1}

    def test_all_are_those_with_annotations_by_id(self) -> None:
        found = find_classes(CATEGORIES, NAMES, {"core", "edema"}, "all")
        assert (found.names, found.setting) == (("edema", "core"), "edema,core")
        assert found.labels == {"edema": 1, "core": 2}

    def test_all_are_of_the_used_categories(self) -> None:
        assert find_classes(CATEGORIES, {"core", "vessel"}, NAMES, "all").names == ("core", "vessel")

    def test_names_are_in_the_order_given(self) -> None:
        found = find_classes(CATEGORIES, NAMES, NAMES, "vessel, edema")
        assert (found.names, found.labels) == (("vessel", "edema"), {"vessel": 1, "edema": 2})

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ("tumour", "must be binary, all or names of the used categories, got 'tumour'; known: core, edema, vessel"),
            ("core,", "got ''; known: core, edema, vessel"),
            ("core,core", "classes must name each category once, got 'core' twice; drop one"),
        ],
    )
    def test_names_that_are_none(self, wanted: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            find_classes(CATEGORIES, NAMES, NAMES, wanted)

    def test_a_category_that_is_not_used_is_no_class(self) -> None:
        with pytest.raises(UserError, match="got 'vessel'; known: core, edema"):
            find_classes(CATEGORIES, {"core", "edema"}, NAMES, "vessel")

    def test_a_comma_in_a_name(self) -> None:
        with pytest.raises(UserError, match="the name of a class must be without commas, got 'a,b'; rename"):
            find_classes([Category(id=1, name="a,b")], {"a,b"}, {"a,b"}, "all")

    def test_nothing_is_annotated(self) -> None:
        with pytest.raises(UserError, match="classes=all needs a used category with annotations, and none has any"):
            find_classes(CATEGORIES, NAMES, set(), "all")

    def test_more_than_a_byte_holds(self) -> None:
        names = {f"n{number}" for number in range(255)}
        categories = [Category(id=number, name=name) for number, name in enumerate(names)]
        with pytest.raises(UserError, match="classes must be at most 254, got 255; name those that matter"):
            find_classes(categories, names, names, "all")


def box(top: int, left: int, bottom: int, right: int, crowd: bool = False) -> Annotation:
    """A rectangle in an image of 8 × 10 pixels."""
    runs, mask = [], np.zeros((8, 10), np.uint8)
    mask[top:bottom, left:right] = 1
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], changes])).tolist()
    return Annotation(id=0, image_id=0, category_id=1, crowd=crowd, segmentation=RunLengths(tuple(runs)), area=None)


class TestOverlaps:
    def test_the_smaller_object_wins(self) -> None:
        large, small = box(0, 0, 6, 6), box(2, 2, 4, 4)
        for annotations, labels in (((large, small), (1, 2)), ((small, large), (2, 1))):
            mask, _, _ = example_mask(annotations, 8, 10, crowds="ignore", labels=labels)
            assert (mask[2:4, 2:4] == 2).all()
            assert ((mask == 1).sum(), (mask == 2).sum()) == (32, 4)

    def test_of_equally_large_ones_the_later_class_wins(self) -> None:
        for labels in ((1, 2), (2, 1)):
            mask, _, _ = example_mask([box(0, 0, 4, 4)] * 2, 8, 10, crowds="ignore", labels=labels)
            assert (mask == 2).sum() == 16

    def test_an_object_lies_on_a_crowd(self) -> None:
        annotations = [box(0, 0, 4, 4), box(2, 0, 8, 4, crowd=True)]
        mask, foreground, ignored = example_mask(annotations, 8, 10, crowds="ignore", labels=(2, 1))
        assert ((mask == 2).sum(), (mask == 255).sum()) == (16, 16)
        assert region(foreground, 8, 10).sum() == 16
        assert ignored is not None


labelled = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, 3, 255])
)


class TestResizing:
    def test_a_pixel_has_the_class_that_covers_most_of_it(self) -> None:
        # Two pixels from 2 × 2 each: three of class 2 and one of class 1; two of class 3 and two of background.
        mask = np.array([[2, 2, 3, 0], [1, 2, 3, 0]], np.uint8)
        assert resize_mask(mask, 1, 2, classes=3).tolist() == [[2, 3]]

    def test_classes_are_foreground_together(self) -> None:
        # A quarter of each of two classes: half of the pixel is foreground, and the first class is the first of equals.
        assert resize_mask(np.array([[1, 2], [0, 0]], np.uint8), 1, 1, classes=2).tolist() == [[1]]

    @given(labelled, st.integers(1, 12), st.integers(1, 12))
    @settings(deadline=None)
    def test_the_foreground_is_that_of_one_class(self, mask: np.ndarray, height: int, width: int) -> None:
        found = resize_mask(mask, height, width, classes=3)
        binary = resize_mask(np.where((mask > 0) & (mask < 255), np.uint8(1), mask), height, width)
        np.testing.assert_array_equal(np.where((found > 0) & (found < 255), 1, found), binary)

    @given(labelled)
    @settings(deadline=None)
    def test_at_its_own_size_nothing_changes(self, mask: np.ndarray) -> None:
        np.testing.assert_array_equal(resize_mask(mask, *mask.shape, classes=3), mask)


class TestConversion:
    def test_masks_hold_the_classes(self, data: Path) -> None:
        manifest = run(data, classes="all")
        assert manifest.classes == ("edema", "core")
        assert manifest.settings["classes"] == "edema,core"
        inside, beside = manifest.records("train")[..., 3]
        expected = np.zeros((8, 8), np.uint8)
        expected[2:6, 2:6] = 1
        expected[2:4, 4:6] = 2
        np.testing.assert_array_equal(inside, expected)
        assert ((beside == 1).sum(), (beside == 2).sum()) == (16, 8)
        for example, mask in zip(manifest.examples("train"), (inside, beside), strict=True):
            np.testing.assert_array_equal(own_mask(example), mask)
        assert manifest.splits["train"].foreground == (16 + 24) / 128
        assert record_faults(manifest) == []

    def test_loaded_again(self, data: Path) -> None:
        manifest = run(data, classes="all")
        assert Manifest.load(manifest.folder) == manifest
        assert [len(example.classes) for example in manifest.examples("val")] == [2, 2]

    def test_the_order_given_decides(self, data: Path) -> None:
        manifest = run(data, classes="core,edema")
        assert manifest.classes == ("core", "edema")
        assert (manifest.records("train")[1, ..., 3] == 1).sum() == 8

    def test_what_is_no_class_is_background(self, data: Path) -> None:
        manifest = run(data, classes="vessel,core")
        assert [(mask == 2).sum() for mask in manifest.records("train")[..., 3]] == [4, 8]
        assert [category["used"] for category in manifest.categories] == [True, True, False]

    def test_names_and_all_are_one_dataset(self, data: Path) -> None:
        assert run(data, classes="all").key == run(data, classes="edema,core").key

    def test_the_foreground_is_that_of_the_binary_dataset(self, data: Path) -> None:
        several, binary = run(data, classes="all", image_size=3), run(data, image_size=3)
        assert several.key != binary.key
        for split in binary.splits:
            masks = several.records(split)[..., 3]
            np.testing.assert_array_equal((masks > 0).astype(np.uint8), binary.records(split)[..., 3])
            assert several.splits[split].key != binary.splits[split].key
            for one, other in zip(several.examples(split), binary.examples(split), strict=True):
                assert one.mask == other.mask

    def test_a_binary_dataset_says_nothing_of_classes(self, data: Path) -> None:
        manifest = run(data)
        assert manifest.classes == BINARY_CLASSES
        for name in (MANIFEST, "train.jsonl"):
            assert "classes" not in (manifest.folder / name).read_text(encoding="utf-8")

    def test_one_class_is_the_binary_dataset_of_its_category(self, data: Path) -> None:
        named, chosen = run(data, classes="core"), run(data, categories="core")
        assert (named.classes, chosen.classes) == (("core",), BINARY_CLASSES)
        assert named.splits == chosen.splits  # the keys of images and masks, too
        for split in named.splits:
            np.testing.assert_array_equal(named.records(split), chosen.records(split))

    def test_the_masks_to_look_at_have_colours(self, data: Path) -> None:
        folder = run(data, classes="all").folder / "train_mask"
        picture = cv2.imread(str(folder / "image1.png"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3

    def test_overlaps_can_be_refused(self, data: Path) -> None:
        with pytest.raises(BadDataError, match="annotations 0 and 100 must not overlap, and share 4 pixels"):
            run(data, classes="all", overlaps="refuse")

    def test_a_category_with_another_id_in_another_split(self, tmp_path: Path) -> None:
        other = two_classes()
        for entry in (*other["categories"], *other["annotations"]):
            name = "id" if "name" in entry else "category_id"
            entry[name] = {1: 2, 2: 1, 3: 3}[entry[name]]
        manifest = run(write_two_classes(tmp_path / "export", valid=other), classes="edema,core")
        np.testing.assert_array_equal(manifest.records("val")[..., 3], manifest.records("train")[..., 3])

    def test_a_value_that_is_no_class_is_a_fault(self, data: Path) -> None:
        manifest = run(data, classes="all")
        records = np.load(manifest.folder / "train.npy")
        records[0, 2, 2, 3] = 3
        np.save(manifest.folder / "train.npy", records)
        assert record_faults(manifest) == ["train.npy has mask values other than 0, 1 to 2 and 255"]


class TestCorrections:
    def corrections(self, tmp_path: Path, category: str) -> Path:
        document = content(1, first=50)
        document["categories"][0]["name"] = category
        folder = write_export(tmp_path / "corrections", train=document)
        for split in ("valid", "test"):
            (folder / split / "_annotations.coco.json").unlink()
        image = folder / "train" / "image50.png"
        image.write_bytes(cv2.imencode(".png", np.full((8, 8), 9, np.uint8))[1].tobytes())
        return folder

    def test_of_a_class(self, data: Path, tmp_path: Path) -> None:
        manifest = run(data, classes="all", additional=self.corrections(tmp_path, "core"))
        assert (manifest.records("train")[2, ..., 3] == 2).sum() == 16

    @pytest.mark.parametrize("category", ["foreground", "vessel"])
    def test_of_no_class(self, data: Path, tmp_path: Path, category: str) -> None:
        folder = self.corrections(tmp_path, category)
        with pytest.raises(
            UserError, match=f"additional must have the categories of the classes, core, edema, got {category}"
        ):
            run(data, classes="all", additional=folder)

    def test_of_one_class(self, data: Path, tmp_path: Path) -> None:
        manifest = run(data, classes="core", additional=self.corrections(tmp_path, "foreground"))
        assert (manifest.records("train")[2, ..., 3] == 1).sum() == 16


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_back_to_coco_and_again(data: Path, tmp_path: Path, segmentation: str) -> None:
    manifest = run(data, classes="core,edema")
    exported = export_coco(manifest, data, tmp_path / "out", segmentation=segmentation)
    assert exported.annotations == 12
    document = json.loads((tmp_path / "out" / "train" / "_annotations.coco.json").read_text())
    assert document["categories"] == [{"id": 1, "name": "core"}, {"id": 2, "name": "edema"}]
    again = run(tmp_path / "out", classes="all")
    assert again.classes == manifest.classes
    for split in manifest.splits:
        assert again.splits[split] == manifest.splits[split]
        np.testing.assert_array_equal(again.records(split), manifest.records(split))


def test_baselines_by_hand(data: Path) -> None:
    """Two training images: edema 16 pixels in both, 4 of them core in the first; core 8 pixels beside in the second."""
    for path in data.rglob("*.png"):
        noise = np.random.default_rng(int(path.stem[-1])).integers(0, 255, (8, 8)).astype(np.uint8)
        path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    manifest = run(data, classes="edema,core")
    found = baselines(manifest, "test")
    assert found["all_background"] == 0  # both classes are in every image
    # The images of test are those of train: the nearest is the same image.
    assert found["nearest_image"] == 1
    # The best constant mask leaves out nothing that half of the images have: the square (edema wins the 4 pixels of
    # which each has one, being the first of equals) and core beside it, or the square alone.
    square = ((2 * 12 / (12 + 16)) + 0) / 2, (1 + 0) / 2
    both = ((2 * 12 / (12 + 16)) + 0) / 2, (1 + 1) / 2
    assert found["best_constant"] == pytest.approx(max(np.mean(square), np.mean(both)), rel=1e-6)
