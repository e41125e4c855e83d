import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as pycoco

from seg.data.segmentation import (
    MAX_OUTLINE,
    BrokenRule,
    Polygons,
    RunLengths,
    check_segmentation,
    decode_counts,
    shown,
)

NAN, INFINITE = float("nan"), float("inf")
TRIANGLE = [1, 1, 5, 1, 5, 5]


@pytest.mark.parametrize(
    ("segmentation", "rule", "message"),
    [
        (None, "segmentation_type", "must be a list of polygons or an RLE, got None"),
        (7, "segmentation_type", "got 7"),
        ([TRIANGLE, "x"], "polygon_type", "got 'x'"),
        (TRIANGLE, "polygon_type", "got 1"),
        ([[1, 1, 5, 1, 5, None]], "coordinate_type", "got None"),
        ([[1, 1, 5, 1, 5, "5"]], "coordinate_type", "got '5'"),
        ([[1, 1, 5, 1, 5, True]], "coordinate_type", "got True"),
        ([[1, 1, 5, 1, 5, NAN]], "coordinate_not_finite", "got nan"),
        ([[1, 1, 5, 1, 5, -INFINITE]], "coordinate_not_finite", "got -inf"),
        ([[1, 1, 5, 1, 5, 1e9]], "coordinate_too_large", r"\(-10 to 20\), got 1000000000.0"),
        ([[1, 1, 5, 1, 5, 10**400]], "coordinate_too_large", "got 10000"),
        ([[1, 1, 5, 1, 5, 5, 7]], "odd_coordinates", "got 7 numbers"),
        ([[1, 1, 5, 5]], "too_few_points", "at least 3 points, got 2"),
        ([[]], "too_few_points", "got 0"),
        ([[-10, 0, 20, 0] * (MAX_OUTLINE // 50)], "outline_too_long", "at most 4000000 pixels"),
        # 30 columns an edge, 2000 edges, 67 polygons: 4,020,000; allowed are 4,000,000 and half of 80 pixels
        ([[-10, 0, 20, 0] * 1000] * 67, "outline_too_long", "at most 4000040 pixels long together, got 4020000"),
        ({"counts": [80]}, "rle_missing_key", "must have 'size'"),
        ({"size": [8, 10]}, "rle_missing_key", "must have 'counts'"),
        ({"size": [8.0, 10], "counts": [80]}, "rle_size_type", "must be two integers"),
        ({"size": [8], "counts": [80]}, "rle_size_type", "must be two integers"),
        ({"size": [10, 8], "counts": [80]}, "rle_other_size", r"must be its image's \[8, 10\], got \[10, 8\]"),
        ({"size": [8, 10], "counts": [79]}, "rle_too_short", "add up to 80 pixels, got 79"),
        ({"size": [8, 10], "counts": []}, "rle_too_short", "got 0"),
        ({"size": [8, 10], "counts": [40, 41]}, "rle_too_long", "got 81"),
        ({"size": [8, 10], "counts": [90, -10]}, "rle_negative_count", "got -10"),
        ({"size": [8, 10], "counts": [80.0]}, "rle_count_type", "must be integers"),
        ({"size": [8, 10], "counts": None}, "rle_count_type", "a string or a list, got None"),
        ({"size": [8, 10], "counts": ""}, "rle_too_short", "got 0"),
        ({"size": [8, 10], "counts": "P"}, "rle_undecodable", "end within a number"),
        ({"size": [8, 10], "counts": "a b"}, "rle_undecodable", "the character ' '"),
        ({"size": [8, 10], "counts": "é"}, "rle_undecodable", "the character 'é'"),
        ({"size": [8, 10], "counts": "o" * 9}, "rle_undecodable", "more than 32 bits"),
    ],
)
def test_broken_rules(segmentation, rule, message):
    with pytest.raises(BrokenRule, match=message) as caught:
        check_segmentation(segmentation, 8, 10)
    assert caught.value.rule == rule


def test_valid_polygons():
    assert check_segmentation([TRIANGLE, [-1, 0, 11.5, 0, 3, 3]], 8, 10) == Polygons(
        ((1.0, 1.0, 5.0, 1.0, 5.0, 5.0), (-1.0, 0.0, 11.5, 0.0, 3.0, 3.0))
    )


def test_empty_segmentation_is_no_region():
    assert check_segmentation([], 8, 10) == Polygons(())


def test_empty_runs_are_joined():
    # 3 background, 0 foreground, 2 background, 1 foreground, 0 background, 2 foreground, 72 background
    counts = [3, 0, 2, 1, 0, 2, 72]
    assert check_segmentation({"size": [8, 10], "counts": counts}, 8, 10) == RunLengths((5, 3, 72))
    assert check_segmentation({"size": [8, 10], "counts": [0, 80, 0]}, 8, 10) == RunLengths((0, 80))


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_decodes_counts_as_pycocotools_encodes_them(height, width, random):
    mask = np.array([random.random() < 0.4 for _ in range(height * width)], np.uint8).reshape(height, width, order="F")
    counts = decode_counts(pycoco.encode(np.asfortranarray(mask))["counts"].decode())
    assert np.array_equal(np.repeat(np.arange(len(counts)) % 2, counts), mask.ravel(order="F"))


@given(st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=20))
def test_any_accepted_counts_fill_the_image(text):
    try:
        checked = check_segmentation({"size": [4, 6], "counts": text}, 4, 6)
    except BrokenRule:
        return
    assert isinstance(checked, RunLengths)
    counts = decode_counts(checked.counts) if isinstance(checked.counts, str) else checked.counts
    assert sum(counts) == 24
    assert 0 not in counts[1:]


def test_shown_is_short():
    assert shown("x" * 1000) == "'" + "x" * 36 + "..."
    assert shown({"a": 1}) == "a dict"


def test_shown_does_not_write_out_enormous_integers():
    assert shown(-(2**99_999)) == "an integer of 100000 bits"


def test_runs_whose_sum_has_more_digits_than_python_writes():
    with pytest.raises(BrokenRule, match="must add up to 64 pixels, got an integer of"):
        check_segmentation({"size": [8, 8], "counts": [10**4300 - 1] * 2}, 8, 8)
