import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycoco

from seg.data.coco import Annotation, Category
from seg.data.masks import around, example_mask, extent, rasterise, rasterise_each, region, used_categories
from seg.data.segmentation import Polygons, RunLengths, check_segmentation
from seg.errors import UserError

SQUARE = Polygons(((2, 2, 6, 2, 6, 6, 2, 6),))
CATEGORIES = [Category(id=1, name="tumor"), Category(id=2, name="cyst")]


def annotation(segmentation, *, crowd=False) -> Annotation:
    return Annotation(id=0, image_id=0, category_id=1, crowd=crowd, segmentation=segmentation, area=None)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((8, 10), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_square_of_whole_pixels():
    mask, counts, ignored = example_mask([annotation(SQUARE)], 8, 10, crowds="ignore")
    assert np.array_equal(mask, box(2, 2, 6, 6))
    assert np.array_equal(region(counts, 8, 10), mask)
    assert ignored is None


def test_no_annotations():
    mask, counts, ignored = example_mask([], 8, 10, crowds="ignore")
    assert not mask.any()
    assert not region(counts, 8, 10).any()
    assert ignored is None


def test_empty_segmentation():
    assert rasterise([Polygons(())], 8, 10) is None


def test_union_of_parts_annotations_and_run_lengths():
    runs = RunLengths((0, 8, 72))  # the first column
    mask, _, _ = example_mask([annotation(SQUARE), annotation(runs)], 8, 10, crowds="ignore")
    assert np.array_equal(mask, box(2, 2, 6, 6) | box(0, 0, 8, 1))


def test_compressed_and_uncompressed_run_lengths_agree():
    compressed = RunLengths(pycoco.encode(np.asfortranarray(box(1, 1, 4, 5)))["counts"].decode())
    # column 0 and one pixel, then four columns of three with gaps of five, then the rest: 80 in all
    uncompressed = RunLengths((9, 3, 5, 3, 5, 3, 5, 3, 44))
    assert rasterise([compressed], 8, 10) == rasterise([uncompressed], 8, 10)


def test_crowd_is_ignored_where_no_object_is():
    crowd = annotation(RunLengths((0, 32, 48)), crowd=True)  # the first four columns
    mask, counts, ignored = example_mask([annotation(SQUARE), crowd], 8, 10, crowds="ignore")
    expected = box(0, 0, 8, 4) * 255
    expected[2:6, 2:6] = 1
    assert np.array_equal(mask, expected)
    assert np.array_equal(region(counts, 8, 10), box(2, 2, 6, 6))
    assert np.array_equal(region(ignored, 8, 10), expected == 255)


def test_crowd_without_an_object():
    crowd = annotation(RunLengths((0, 32, 48)), crowd=True)
    mask, counts, ignored = example_mask([crowd], 8, 10, crowds="ignore")
    assert np.array_equal(mask, box(0, 0, 8, 4) * 255)
    assert not region(counts, 8, 10).any()
    assert np.array_equal(region(ignored, 8, 10), box(0, 0, 8, 4))


def test_crowd_as_foreground():
    crowd = annotation(RunLengths((0, 32, 48)), crowd=True)
    mask, _, ignored = example_mask([annotation(SQUARE), crowd], 8, 10, crowds="foreground")
    assert np.array_equal(mask, box(0, 0, 8, 4) | box(2, 2, 6, 6))
    assert ignored is None


coordinates = st.lists(st.floats(-5, 35, width=32), min_size=6, max_size=14).filter(
    lambda numbers: len(numbers) % 2 == 0
)


@given(st.lists(coordinates, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_equals_pycocotools_pixel_for_pixel(parts):
    """What `COCO.annToMask` does: polygons to run lengths, merged, decoded."""
    expected = pycoco.decode(pycoco.merge(pycoco.frPyObjects(parts, 20, 30)))
    mask, _, _ = example_mask([annotation(check_segmentation(parts, 30, 30))], 20, 30, crowds="ignore")
    assert np.array_equal(mask, expected)


@given(st.lists(st.integers(0, 12), max_size=12), st.lists(st.integers(0, 12), max_size=12))
@settings(deadline=None)
def test_union_of_any_run_lengths(first, second):
    """Empty runs included, on which pycocotools' own merge goes wrong."""
    masks, checked = [], []
    for runs in (first, second):
        runs = [*runs, 150 - sum(runs)] if len(runs) < 12 else [*runs, 0, 150 - sum(runs)]
        masks.append(np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(10, 15, order="F"))
        checked.append(annotation(check_segmentation({"size": [10, 15], "counts": runs}, 10, 15)))
    mask, _, _ = example_mask(checked, 10, 15, crowds="ignore")
    assert np.array_equal(mask, masks[0] | masks[1])


@given(
    st.lists(st.tuples(st.lists(coordinates, max_size=2), st.booleans()), max_size=4),
    st.sampled_from(["ignore", "foreground"]),
)
@settings(max_examples=200, deadline=None)
def test_the_same_whether_annotations_are_rasterised_together_or_one_by_one(drawn, crowds):
    """And one box around all of them is the box around what the mask has."""
    annotations = [annotation(check_segmentation(parts, 30, 30), crowd=crowd) for parts, crowd in drawn]
    objects = rasterise_each(annotations, 20, 30)
    mask, counts, ignored = example_mask(annotations, 20, 30, crowds=crowds, objects=objects)
    ignored_ones = [each.crowd and crowds == "ignore" for each in annotations]
    for found, wanted in ((counts, False), (ignored, True)):
        chosen = [each.segmentation for each, one in zip(annotations, ignored_ones, strict=True) if one == wanted]
        together = rasterise(chosen, 20, 30)
        if together is not None and not (wanted and False in ignored_ones):  # what is under an object is not ignored
            assert found == together.decode("ascii")
    rows, columns = np.nonzero(mask)
    expected = (0, 0, 0, 0)
    if len(rows):
        left, top = columns.min(), rows.min()
        expected = (left, top, columns.max() + 1 - left, rows.max() + 1 - top)
    assert around(extent(each, 20, 30)[1] for each in objects) == expected


def test_used_categories():
    assert used_categories(CATEGORIES, "all") == {"tumor", "cyst"}
    assert used_categories(CATEGORIES, "cyst") == {"cyst"}
    assert used_categories(CATEGORIES, "cyst, tumor") == {"tumor", "cyst"}


@pytest.mark.parametrize("wanted", ["tumour", "cyst,", ""])
def test_unknown_category(wanted):
    with pytest.raises(UserError, match=r"must be 'all' or known names, got '.*'; known: cyst, tumor"):
        used_categories(CATEGORIES, wanted)


@given(
    st.integers(1, 40).flatmap(
        lambda height: st.lists(st.lists(st.integers(0, 1), min_size=height, max_size=height), min_size=1, max_size=40)
    )
)
@settings(max_examples=200, deadline=None)
def test_run_lengths_are_expanded_as_pycocotools_does(columns):
    mask = np.asfortranarray(np.array(columns, np.uint8).T)
    counts = pycoco.encode(mask)["counts"]
    found = region(counts, *mask.shape)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pycoco.decode({"size": list(mask.shape), "counts": counts}))
    assert np.array_equal(region(counts.decode("ascii"), *mask.shape), mask)


def test_long_runs_take_several_characters():
    mask = np.zeros((3000, 5000), np.uint8, order="F")
    mask[:, 10:4000] = 1
    mask[5, 2000:2010] = 0
    assert np.array_equal(region(pycoco.encode(mask)["counts"], 3000, 5000), mask)
