"""Overlaps against the matrix of all pairs, and without it."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycoco

from seg.data.audit.context import Labelled
from seg.data.audit.overlapping import overlapping
from seg.data.coco import Annotation, ImageEntry
from seg.data.masks import measure, rasterise
from seg.data.segmentation import Polygons

SIDE = 640
IMAGE = ImageEntry(id=1, file_name="a.png", height=SIDE, width=SIDE)


def labelled(number: int, *corners: float) -> Labelled:
    segmentation = Polygons((corners,))
    area, box = measure(segmentation, SIDE, SIDE)
    annotation = Annotation(id=number, image_id=1, category_id=1, crowd=False, segmentation=segmentation, area=None)
    return Labelled(source="train", file_name="a.png", image=IMAGE, annotation=annotation, area=area, box=box)


def box(number: int, left: float, top: float, width: float, height: float) -> Labelled:
    right, bottom = left + width, top + height
    return labelled(number, left, top, right, top, right, bottom, left, bottom)


def ids(shapes: list[Labelled]) -> list[int]:
    return [shape.annotation.id for shape in shapes]


def test_by_hand():
    shapes = [
        box(0, 0, 0, 100, 100),
        box(1, 0, 0, 100, 95),  # 9500 of 10000: 0.95
        box(2, 50, 0, 100, 100),  # 5000 of 15000 with the first
        box(3, 98, 200, 10, 10),  # nothing
        box(4, 107, 200, 10, 5),  # 5 of 145 with the one before: 0.034
        box(5, 116, 200, 10, 1),  # 1 of 59: 0.017
    ]
    twice, others = overlapping(shapes)
    assert (ids(twice), ids(others)) == ([1], [2, 4])
    assert overlapping([]) == ([], [])


NUMBER = st.integers(0, 60)


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER), min_size=1, max_size=12))
@settings(deadline=None)
def test_as_the_matrix_of_all_pairs_says(triangles):
    shapes = [shape for n, corners in enumerate(triangles) if (shape := labelled(n, *corners)).area]
    regions = [
        {"size": [SIDE, SIDE], "counts": rasterise([shape.annotation.segmentation], SIDE, SIDE)} for shape in shapes
    ]
    largest = [
        float(pycoco.iou(regions[:index], [regions[index]], [0]).max()) if index else 0.0
        for index in range(len(shapes))
    ]
    twice, others = overlapping(shapes)
    assert twice == [shape for shape, most in zip(shapes, largest, strict=True) if most > 0.9]
    assert others == [shape for shape, most in zip(shapes, largest, strict=True) if 0.02 < most <= 0.9]


def test_many_are_compared_without_a_matrix():
    places = np.random.default_rng(0).integers(0, 600, (3000, 2))
    shapes = [labelled(n, x, y, x + 30, y, x + 30, y + 30) for n, (x, y) in enumerate(places.tolist())]
    tracemalloc.start()
    try:
        twice, others = overlapping(shapes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(twice) + len(others) > 2000
    assert peak < 30e6  # 3000 × 3000 numbers take 72 MB
