"""Divisions of small exports: groups stay together, mixtures stay alike, gaps stay empty."""

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.data.convert import convert
from seg.data.export import Export
from seg.data.files import HashCache
from seg.data.groups import _pictures, _thumbnails, find_groups
from seg.data.manifest import SPLITS
from seg.data.splits import assign, check_split
from seg.errors import UserError
from tests.small_export import content, write_export


def named(*names: str) -> dict:
    """A valid annotation file for images of these names."""
    found = content(len(names))
    for image, name in zip(found["images"], names, strict=True):
        image["file_name"] = name
    return found


def paint(folder, seed: int) -> None:
    """Gives every image other pixels: noise of its own."""
    random = np.random.default_rng(seed)
    for path in sorted(folder.rglob("*.png")):
        path.write_bytes(cv2.imencode(".png", random.integers(0, 256, (8, 8), np.uint8))[1].tobytes())


def members(manifest) -> dict[str, set[str]]:
    return {split: {example.file_name for example in manifest.examples(split)} for split in SPLITS}


@pytest.fixture
def patients(tmp_path):
    """Six patients of two images, each patient in two splits of the export."""
    data = write_export(
        tmp_path / "data",
        train=named("p1_a.png", "p2_a.png", "p3_a.png", "p4_a.png", "p5_a.png", "p6_a.png"),
        valid=named("p1_b.png", "p2_b.png", "p3_b.png"),
        test=named("p4_b.png", "p5_b.png", "p6_b.png"),
    )
    paint(data, 0)
    return data


def converted(data, tmp_path, **options):
    return convert(data, tmp_path / "workspace", image_size=8, jobs=1, progress=False, **options)


def test_pattern_keeps_groups_on_one_side(patients, tmp_path):
    manifest = converted(patients, tmp_path, split="grouped", group_pattern=r"(p\d)_")
    sides = {}
    for split in SPLITS:
        for example in manifest.examples(split):
            assert sides.setdefault(example.group, split) == split
    assert sorted(sides) == ["p1", "p2", "p3", "p4", "p5", "p6"]
    assert manifest.split == "grouped"
    assert manifest.settings["group_pattern"] == r"(p\d)_"
    assert sum(summary.examples for summary in manifest.splits.values()) == 12


def with_column(data, key: str, value) -> None:
    """Gives every image entry of an export a column; `value` is called with the file name."""
    for path in data.rglob("_annotations.coco.json"):
        document = json.loads(path.read_text())
        for image in document["images"]:
            image[key] = value(image["file_name"])
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("split", ["grouped", "kfold:3/2"])
@pytest.mark.parametrize(
    ("key", "column", "value"),
    [
        ("patient", "patient", lambda name: name[:2]),
        ("patient", "patient", lambda name: int(name[1])),
        ("extra", "extra.patient", lambda name: {"patient": name[:2]}),
        ("a.b", "a.b", lambda name: name[:2]),
    ],
)
def test_column_keeps_groups_on_one_side(patients, tmp_path, split, key, column, value):
    with_column(patients, key, value)
    manifest = converted(patients, tmp_path, split=split, group_column=column)
    sides = {(example.group, side) for side in SPLITS for example in manifest.examples(side)}
    assert len(sides) == len({group for group, _ in sides}) == 6
    assert manifest.settings["group_column"] == column


def test_image_without_the_column(patients, tmp_path):
    with_column(patients, "patient", lambda name: "p")
    path = patients / "test" / "_annotations.coco.json"
    document = json.loads(path.read_text())
    del document["images"][1]["patient"]
    path.write_text(json.dumps(document))
    rule = "every image must name its group in 'patient', which is missing"
    with pytest.raises(UserError, match=rf"test/_annotations.coco.json, image p5_b.png: group_column_missing: {rule}"):
        converted(patients, tmp_path, split="grouped", group_column="patient")


def test_column_is_no_matter_for_the_official_split(patients, tmp_path):
    assert converted(patients, tmp_path, group_column="patient").key == converted(patients, tmp_path).key


def test_folds_test_every_image_once(patients, tmp_path):
    tested = Counter()
    keys = set()
    for fold in (1, 2, 3):
        manifest = converted(patients, tmp_path, split=f"kfold:3/{fold}", group_pattern=r"p\d")
        found = members(manifest)
        assert not found["train"] & found["test"]
        assert not found["val"] & found["test"]
        tested.update(found["test"])
        keys.add(manifest.key)
    assert set(tested.values()) == {1}
    assert len(tested) == 12
    assert len(keys) == 3  # the split is part of the dataset's identity


def test_seed_decides_and_repeats(patients, tmp_path):
    def by_seed(seed: int, workspace: str):
        return converted(patients, tmp_path / workspace, split="grouped", group_pattern=r"(p\d)", split_seed=seed)

    first, again = by_seed(0, "one"), by_seed(0, "two")
    assert members(first) == members(again)
    assert first.key == again.key
    assert len({tuple(sorted(members(by_seed(seed, "one"))["test"])) for seed in range(5)}) > 1


def test_copies_stay_together(tmp_path):
    data = write_export(
        tmp_path / "data",
        train=named("a.png", "b.png", "c.png", "d.png"),
        valid=named("e.png", "f.png"),
        test=named("g.png", "h.png"),
    )
    paint(data, 1)
    (data / "test" / "g.png").write_bytes((data / "train" / "a.png").read_bytes())
    manifest = converted(data, tmp_path, split="grouped")
    side = {name: split for split, names in members(manifest).items() for name in names}
    assert side["test/g.png"] == side["train/a.png"]


def test_a_copy_is_found_among_strangers_of_the_same_scene(tmp_path):
    """A camera that stands still: every small picture is alike, and only the fine detail tells a copy."""
    contents = {
        "train": named("a.png", "c.png", "d.png", "e.png"),
        "valid": named("f.png", "g.png"),
        "test": named("b.png", "h.png"),
    }
    for document in contents.values():
        for image in document["images"]:
            image |= {"height": 160, "width": 160}
    data = write_export(tmp_path / "data", **contents)
    random = np.random.default_rng(3)
    scene = cv2.GaussianBlur(random.integers(0, 256, (160, 160)).astype(np.float32), (0, 0), 20)
    scene = cv2.normalize(scene, None, 40, 200, cv2.NORM_MINMAX)
    pictures = {}
    for path in sorted(data.rglob("*.png")):
        pictures[path] = scene + random.normal(0, 8, scene.shape)
    by_name = {path.name: path for path in pictures}
    pictures[by_name["b.png"]] = pictures[by_name["a.png"]]
    rows, columns = np.mgrid[-1:1:160j, -1:1:160j]
    for name in ("b.png", "g.png", "h.png"):  # darker corners: each of the two has strangers that look more like it
        pictures[by_name[name]] = pictures[by_name[name]] * (1 - 0.12 * (rows**2 + columns**2))
    for path, picture in pictures.items():
        cv2.imwrite(str(path), np.clip(picture, 0, 255).astype(np.uint8))
    names = [path.name for path in pictures]
    thumbnails = _thumbnails(_pictures(list(pictures), 1))
    likeness = thumbnails @ thumbnails.T
    first, second = names.index("a.png"), names.index("b.png")
    assert sum(likeness[first] > likeness[first, second]) > 1  # more than itself
    assert sum(likeness[second] > likeness[first, second]) > 1
    groups = [place.group for place in find_groups(exported(data), 1)]
    by_name = dict(zip([image.entry.file_name for image in exported(data)], groups, strict=True))
    assert by_name["a.png"] == by_name["b.png"]
    assert len(set(groups)) == 7


def exported(data):
    export = Export(data, "all", "ignore", "", None)
    export.locate_images(HashCache(data / "hashes.json"))
    return [image for split in ("train", "val", "test") for image in export.images[split]]


def test_series_is_cut_into_blocks_with_gaps(tmp_path):
    numbers = list(range(150))
    shuffled = [numbers[start::3] for start in range(3)]
    data = write_export(
        tmp_path / "data",
        **{
            split: named(*(f"slice{number:03d}.png" for number in part))
            for split, part in zip(("train", "valid", "test"), shuffled, strict=True)
        },
    )
    paint(data, 2)
    manifest = converted(data, tmp_path, split="grouped")
    found = {split: {int(name[-7:-4]) for name in names} for split, names in members(manifest).items()}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert min(abs(a - b) for a in found[first] for b in found[second]) > 5
    assert {problem["rule"] for problem in manifest.left_out} == {"split_gap"}
    assert sum(map(len, found.values())) + len(manifest.left_out) == 150
    # what was left out on purpose is no mistake in the data
    assert converted(data, tmp_path, split="grouped", on_bad="fail").key == manifest.key


def test_assignment_by_hand():
    # Sides want 2 images each, one of each stratum. Groups ab, then c and d, are of stratum 0 and 1.
    sides = assign(["ab", "ab", "c", "d"], [0, 1, 0, 1], [0.5, 0.5], seed=0)
    assert sides[0] == sides[1] == 0
    assert sides[2] == sides[3] == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=60), st.integers(0, 9))
def test_groups_are_never_divided(images, seed):
    groups = [str(group) for group, _ in images]
    try:
        sides = assign(groups, [stratum for _, stratum in images], [0.7, 0.2, 0.1], seed)
    except UserError:
        return  # too few groups
    assert len(set(zip(groups, sides, strict=True))) == len(set(groups))
    assert set(sides) == {0, 1, 2}


@pytest.mark.parametrize(
    ("split", "expected"),
    [("official", "official"), ("grouped", "grouped"), ("kfold:5", "kfold:5/1"), ("kfold:5/5", "kfold:5/5")],
)
def test_spelling(split, expected):
    assert check_split(split) == expected


@pytest.mark.parametrize("split", ["random", "kfold", "kfold:x", "kfold:5/", ""])
def test_unknown_split(split):
    with pytest.raises(UserError, match="split must be official, grouped or kfold:K/I"):
        check_split(split)


@pytest.mark.parametrize("split", ["kfold:2/1", "kfold:5/0", "kfold:5/6"])
def test_impossible_folds(split):
    with pytest.raises(UserError, match="K of at least 3 and I from 1 to K"):
        check_split(split)


def test_pattern_mistakes(patients, tmp_path):
    with pytest.raises(UserError, match="group_pattern must be a regular expression"):
        converted(patients, tmp_path, split="grouped", group_pattern="(")
    with pytest.raises(UserError, match="group_pattern must match every file name"):
        converted(patients, tmp_path, split="grouped", group_pattern="p[1-5]")
    with pytest.raises(UserError, match="needs at least 3 groups"):
        converted(patients, tmp_path, split="grouped", group_pattern="p")


def test_gaps_that_leave_nothing(tmp_path):
    data = write_export(
        tmp_path / "data",
        train=named(*(f"{number}.png" for number in range(0, 12, 2))),
        valid=named("1.png", "3.png", "5.png"),
        test=named("7.png", "9.png", "11.png"),
    )
    paint(data, 3)
    with pytest.raises(UserError, match="is empty once the gaps are left out"):
        converted(data, tmp_path, split="grouped")
