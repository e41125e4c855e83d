import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seg.data import outlines as module
from seg.data.masks import rasterise, region
from seg.data.outlines import outlines
from seg.data.segmentation import check_segmentation


def drawn(text: str) -> np.ndarray:
    """A mask from rows of `#` and `.`."""
    return np.array([[character == "#" for character in row] for row in text.split()], np.uint8)


def read_back(parts: list[list[int]], height: int, width: int) -> np.ndarray:
    """The mask that our own reader and pycocotools make of polygons."""
    counts = rasterise([check_segmentation(parts, height, width)], height, width)
    return np.zeros((height, width), np.uint8) if counts is None else region(counts, height, width)


RING = drawn("""
    .....
    .###.
    .#.#.
    .###.
    .....
""")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (".. ..", []),
        ("## ##", [[0, 0, 2, 0, 2, 2, 0, 2]]),
        ("... .#.", [[1, 1, 2, 1, 2, 2, 1, 2]]),
        # touching at a corner only: two regions
        ("#. .#", [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]),
        (".# #.", [[1, 0, 2, 0, 2, 1, 1, 1], [0, 1, 1, 1, 1, 2, 0, 2]]),
        ("##. .##", [[0, 0, 2, 0, 2, 1, 3, 1, 3, 2, 1, 2, 1, 1, 0, 1]]),
        ("#.#", [[0, 0, 1, 0, 1, 1, 0, 1], [2, 0, 3, 0, 3, 1, 2, 1]]),
        # a hole that opens at a corner is no hole: the outline passes (2, 2) twice
        ("##. #.# ###", [[0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 2, 2, 2, 1, 3, 1, 3, 3, 0, 3]]),
    ],
)
def test_corners(text: str, parts: list[list[int]]) -> None:
    assert outlines(drawn(text)) == parts


def test_a_ring_is_cut_through_its_hole() -> None:
    # The hole is column 2, so the cut runs along x = 2: a column of three pixels, and the rest, open to the left.
    assert outlines(RING) == [
        [1, 1, 2, 1, 2, 4, 1, 4],
        [2, 1, 4, 1, 4, 4, 2, 4, 2, 3, 3, 3, 3, 2, 2, 2],
    ]


def test_a_long_outline_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OUTLINE", 6)  # 2 × 1 pixels have 6 pixels of outline, 4 × 1 have 10
    assert outlines(drawn("####")) == [[0, 0, 2, 0, 2, 1, 0, 1], [2, 0, 4, 0, 4, 1, 2, 1]]


masks = st.one_of(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)),
    # Few holes, many diagonals and pixels at the border: noise that is mostly foreground.
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 4)).map(np.sign),
)


@given(masks)
@example(np.zeros((1, 1), np.uint8))
@example(np.ones((1, 1), np.uint8))
@example(np.ones((7, 9), np.uint8))
@example(np.eye(6, dtype=np.uint8))
@example(np.pad(RING, 3, constant_values=1))  # an island in the hole of a region at the border
@example(np.indices((9, 9)).sum(0).astype(np.uint8) % 2)
@example(np.array([[1, 0, 1, 1, 0, 1]], np.uint8))
@example(np.array([[1, 0, 1, 1, 0, 1]], np.uint8).T)
@settings(max_examples=300, deadline=None)
def test_every_mask_comes_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    parts = outlines(mask)
    assert np.array_equal(read_back(parts, height, width), mask)
    for part in parts:
        assert set(part[::2]) <= set(range(width + 1))
        assert set(part[1::2]) <= set(range(height + 1))
        assert len(part) >= 8  # four numbers would be taken for a box


@given(masks)
@settings(max_examples=100, deadline=None)
def test_parts_do_not_overlap(mask: np.ndarray) -> None:
    height, width = mask.shape
    assert sum(int(read_back([part], height, width).sum()) for part in outlines(mask)) == mask.sum()


def test_a_large_noisy_mask_comes_back() -> None:
    mask = (np.random.default_rng(0).random((160, 200)) < 0.6).astype(np.uint8)
    assert np.array_equal(read_back(outlines(mask), 160, 200), mask)
