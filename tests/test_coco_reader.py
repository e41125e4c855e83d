import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from seg.data.coco import Annotation, AnnotationFile, ImageEntry
from seg.data.coco_reader import read_annotations
from seg.data.images import MAX_PIXELS
from seg.data.masks import measure
from seg.data.segmentation import Polygons
from seg.errors import UserError
from tests.small_export import content

PATH = Path("train/_annotations.coco.json")


def read(document) -> AnnotationFile:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_annotations(PATH, data, "train")


def broken(document) -> list[tuple]:
    return [(problem.rule, problem.image_id, problem.annotation_id) for problem in read(document).problems]


def test_valid_file():
    file = read(content(2))
    assert file.problems == ()
    assert file.images[1] == ImageEntry(id=1, file_name="image1.png", height=8, width=8)
    assert file.annotations[0] == Annotation(
        id=0,
        image_id=0,
        category_id=1,
        crowd=False,
        segmentation=Polygons(((2, 2, 6, 2, 6, 6, 2, 6),)),
        area=16.0,
    )


def test_byte_order_mark_is_read():
    assert len(read(b"\xef\xbb\xbf" + json.dumps(content(2)).encode()).images) == 2


def test_ordinary_awkwardness_is_no_problem():
    document = content(3)
    document["categories"].append({"id": 2, "name": "unused"})
    document["annotations"][0]["segmentation"] = []
    del document["annotations"][0]["area"], document["annotations"][0]["iscrowd"]
    document["annotations"][1]["segmentation"] = [[2, 2, 2.1, 2, 2.1, 2.1]]
    del document["annotations"][2]
    file = read(document)
    assert file.problems == ()
    assert len(file.images) == 3
    assert file.annotations[0].area is None


@pytest.mark.parametrize("area", ["big", True, -1, float("nan"), 1e300, []])
def test_area_that_is_no_area_is_noted_and_not_used(area):
    document = content(2)
    document["annotations"][1]["area"] = area
    file = read(document)
    (problem,) = file.problems
    assert (problem.rule, problem.annotation_id, problem.fatal) == ("area_type", 1, False)
    assert "area must be a number of pixels, got" in problem.message
    assert [annotation.area for annotation in file.annotations] == [16.0, None]
    assert len(file.images) == 2


def test_area_of_null_claims_nothing():
    document = content(1)
    document["annotations"][0]["area"] = None
    file = read(document)
    assert file.problems == ()
    assert file.annotations[0].area is None


@pytest.mark.parametrize("name", ["", None, 7])
def test_image_without_a_name_is_known_by_position_and_id(name):
    document = content(2)
    document["images"][1] |= {"id": 40, "file_name": name}
    problem = read(document).problems[0]
    assert problem.message.startswith("images[1], id 40: file_name must be a text, got")
    del document["images"][1]["file_name"]
    assert read(document).problems[0].message == "images[1], id 40: 'file_name' is missing"


def test_annotation_for_unknown_image_is_noted_and_harmless():
    document = content(2)
    document["annotations"][1]["image_id"] = 99
    file = read(document)
    assert [(p.rule, p.image_id, p.annotation_id, p.fatal) for p in file.problems] == [
        ("unknown_image", None, 1, False)
    ]
    assert len(file.images) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be a JSON file, and it is empty"),
        (b" \n", "it is empty"),
        (json.dumps(content(2)).encode()[:-40], "is damaged or cut off"),
        (b"\xff\xfe{\x00", "is damaged or cut off"),
        (b'{"images": ' + b"9" * 5000 + b"}", "is damaged or cut off"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must hold a JSON object, got a list"),
        (b"{}", "must hold a list 'images', it is missing"),
        (b'{"images": [], "annotations": {}, "categories": []}', "a list 'annotations', got a dict"),
    ],
)
def test_file_that_is_no_coco(data, message):
    with pytest.raises(UserError, match=message):
        read(data)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("id", 1.0, "id_type"),
        ("id", True, "id_type"),
        ("id", 10**30, "id_type"),
        ("id", None, "id_type"),
        ("file_name", 3, "file_name_type"),
        ("file_name", "", "file_name_type"),
        ("file_name", ".", "file_name_type"),
        ("file_name", ".\\", "file_name_type"),
        ("file_name", "\ud800.png", "file_name_type"),
        ("file_name", "/etc/passwd", "file_name_absolute"),
        ("file_name", "C:\\a.png", "file_name_absolute"),
        ("file_name", "\\\\server\\a.png", "file_name_absolute"),
        ("file_name", "../a.png", "file_name_climbs"),
        ("file_name", "a/../../b.png", "file_name_climbs"),
        ("file_name", "a\\..\\b.png", "file_name_climbs"),
        ("file_name", "a\0.png", "file_name_control"),
        ("height", 8.0, "size_type"),
        ("height", "8", "size_type"),
        ("height", 0, "size_range"),
        ("width", -8, "size_range"),
        ("width", 10**12, "size_range"),
    ],
)
def test_image_problems(key, value, rule):
    document = content(2)
    document["images"][0][key] = value
    file = read(document)
    assert rule in [problem.rule for problem in file.problems]
    assert [image.id for image in file.images] == [1]
    assert [annotation.image_id for annotation in file.annotations] == [1]


@pytest.mark.parametrize("name", ["two\nlines.png", "\ud800.png"])
def test_problem_is_one_printable_line_whatever_the_file_name(name):
    document = content(2)
    document["images"][0] |= {"file_name": name, "height": 0}
    (problem,) = read(document).problems
    assert "\n" not in str(problem)
    str(problem).encode("utf-8")


def test_too_many_pixels():
    document = content(2)
    document["images"][0] |= {"height": 30_000, "width": 30_000}
    assert broken(document) == [("size_range", 0, None)]


@pytest.mark.parametrize("key", ["id", "file_name", "height", "width"])
def test_missing_key_of_an_image(key):
    document = content(2)
    del document["images"][0][key]
    assert broken(document)[0][0] == "missing_key"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("id", "a", "id_type"),
        ("image_id", 0.0, "image_id_type"),
        ("category_id", "1", "category_id_type"),
        ("category_id", 5, "unknown_category"),
        ("iscrowd", 2, "crowd_type"),
        ("iscrowd", "0", "crowd_type"),
        ("segmentation", None, "segmentation_type"),
        ("segmentation", [[1, 1, 5, 1, 5, float("nan")]], "coordinate_not_finite"),
        ("segmentation", {"size": [8, 8], "counts": [63]}, "rle_too_short"),
    ],
)
def test_annotation_problems(key, value, rule):
    document = content(2)
    document["annotations"][0][key] = value
    file = read(document)
    assert [problem.rule for problem in file.problems] == [rule]
    assert [annotation.image_id for annotation in file.annotations] == [1]
    expected = [0, 1] if key == "image_id" else [1]  # no image is known to be concerned
    assert [image.id for image in file.images] == expected


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "segmentation"])
def test_missing_key_of_an_annotation(key):
    document = content(2)
    del document["annotations"][0][key]
    (problem,) = read(document).problems
    assert problem.rule == "missing_key"
    assert f"'{key}' is missing" in problem.message


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("categories", "duplicate_category_id"),
        ("images", "duplicate_image_id"),
        ("annotations", "duplicate_annotation_id"),
    ],
)
def test_duplicate_ids(kind, rule):
    document = content(2)
    document[kind].append(document[kind][0])
    assert rule in [problem.rule for problem in read(document).problems]


def test_both_images_of_a_duplicate_id_are_left_out():
    document = content(3)
    document["images"][1]["id"] = 0
    assert [image.id for image in read(document).images] == [2]


@pytest.mark.parametrize("entry", [None, 3, "x", []])
@pytest.mark.parametrize("kind", ["categories", "images", "annotations"])
def test_entries_that_are_no_objects(kind, entry):
    document = content(2)
    document[kind].append(entry)
    (problem,) = read(document).problems
    assert problem.rule == "entry_type"


def test_problem_names_file_image_annotation_and_rule():
    document = content(2)
    document["annotations"][1]["segmentation"] = [[1, 1, 5, 1, 5]]
    (problem,) = read(document).problems
    assert str(problem) == (
        "train/_annotations.coco.json, image image1.png, annotation 1: odd_coordinates: "
        "a polygon must hold x and y in turn, got 5 numbers"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def hostile_documents(draw):
    """A valid document in which some values were replaced by anything, or removed."""
    document = content(3)
    for _ in range(draw(st.integers(1, 4))):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(JSON)
            break
    return document


@given(hostile_documents())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_documents_are_read_or_refused(document):
    data = json.dumps(document).encode()
    try:
        file = read_annotations(PATH, data, "train")
    except UserError:
        return
    known = {image.id: image for image in file.images}
    assert all(annotation.image_id in known for annotation in file.annotations)
    assert all("\n" not in str(problem) for problem in file.problems)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with pytest.raises(UserError):
        read_annotations(PATH, data, "train")


def zigzag(height: int, width: int, edges: int) -> list[float]:
    """A polygon that runs over the whole width that its coordinates may have, again and again."""
    return [number for k in range(edges // 2) for number in (-width, k % height, 2 * width, k % height + 0.5)]


def test_outlines_of_one_image_are_bounded_together():
    document = content(2)
    document["annotations"] = [
        {"id": n, "image_id": n // 40, "category_id": 1, "segmentation": [zigzag(8, 8, 5000)]} for n in range(80)
    ]  # 24 columns an edge: 120,000 for each; allowed are 4,000,032 an image, which the 34th passes
    file = read(document)
    (problem, other) = file.problems
    assert (problem.rule, problem.image_id, problem.annotation_id) == ("outlines_too_long", 0, 33)
    assert "at most 4000032 pixels long together, got 4080000 up to this annotation" in problem.message
    assert (other.image_id, other.annotation_id) == (1, 73)
    assert file.images == ()
    assert file.annotations == ()


@given(
    st.integers(1, 2**15),
    st.integers(1, 2**15),
    st.lists(st.tuples(st.integers(2, 60), st.integers(1, 3000)), min_size=1, max_size=20),
)
@settings(deadline=None, max_examples=8)
def test_what_is_read_is_rasterised_in_seconds(height, width, annotations):
    assume(height * width <= MAX_PIXELS)
    document = content(1)
    document["images"][0] |= {"height": height, "width": width}
    document["annotations"] = [
        {"id": n, "image_id": 0, "category_id": 1, "segmentation": [zigzag(height, width, edges)] * parts}
        for n, (edges, parts) in enumerate(annotations)
    ]
    file = read(document)
    started = time.process_time()
    for annotation in file.annotations:
        measure(annotation.segmentation, height, width)
    assert time.process_time() - started < 5
