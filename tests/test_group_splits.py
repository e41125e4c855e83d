"""Conversions divided by a given group, from the files to the records: nothing on two sides, every size on each."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from seg.data.convert import convert
from seg.data.manifest import SPLITS, Manifest
from seg.errors import UserError
from tests.small_export import content, write_export

DIVISIONS = ("grouped", "kfold:3/1", "kfold:4/3")
SIDES = (0, 4, 8, 12, 16)  # of the square object in pixels; 0 is an image without one


@pytest.fixture(scope="module", autouse=True)
def conversion_in_this_process() -> Iterator[None]:
    """Starting processes takes most of a small conversion, and how the images are divided does not depend on them."""

    def here(
        function: Callable[[Any], Any], items: Sequence[Any], jobs: int, processes: Any
    ) -> Iterator[tuple[int, Any]]:
        yield from enumerate(map(function, items))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg.data.build.map_in_processes", here)
        patch.setattr("seg.data.build.processes_for", lambda items, jobs: 0)
        yield


def converted(data: Path, split: str, seed: int = 0) -> Manifest:
    return convert(
        data,
        data.parent / "workspace",
        image_size=8,
        jobs=1,
        progress=False,
        split=split,
        group_column="patient",
        split_seed=seed,
    )


def export(folder: Path, groups: Sequence[int | str], cuts: tuple[int, int] = (4, 8)) -> Path:
    """Image N belongs to `groups[N]`; images before the first cut are train, before the second val, the others test."""
    document = content(len(groups))
    for image, group in zip(document["images"], groups, strict=True):
        image["patient"] = group
    return divided(folder, document, cuts)


def divided(folder: Path, document: dict[str, Any], cuts: tuple[int, int]) -> Path:
    parts = {"train": slice(0, cuts[0]), "valid": slice(*cuts), "test": slice(cuts[1], None)}
    documents = {}
    for split, part in parts.items():
        images = document["images"][part]
        ids = {image["id"] for image in images}
        found = [annotation for annotation in document["annotations"] if annotation["image_id"] in ids]
        documents[split] = document | {"images": images, "annotations": found}
    return write_export(folder / "data", **documents)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["a", "b/c", "ä", " ", "p.1"])), min_size=9, max_size=20),
    st.sampled_from(DIVISIONS),
    st.integers(0, 3),
)
def test_nothing_of_a_group_is_on_two_sides(groups: list[int | str], split: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = export(Path(folder), groups)
        try:
            manifest = converted(data, split, seed)
        except UserError as error:
            if "needs at least" not in str(error):
                raise
            reject()  # too few groups for the sides; hypothesis fails where that is nearly always so
        sides: dict[str, str] = {}
        images: Counter[str] = Counter()
        for side in SPLITS:
            for example in manifest.examples(side):
                name = Path(example.file_name).name
                images[name] += 1
                assert example.group == str(groups[int(name.removeprefix("image").removesuffix(".png"))])
                assert sides.setdefault(example.group, side) == side
        assert images == Counter(f"image{number}.png" for number in range(len(groups)))


def sizes(manifest: Manifest, split: str, size_of: dict[str, int]) -> Counter[int]:
    return Counter(size_of[Path(example.file_name).name] for example in manifest.examples(split))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("split", "shares"),
    [
        ("official", {}),
        ("grouped", {"train": 0.6, "val": 0.2, "test": 0.2}),
        ("kfold:5/2", {"train": 0.6, "val": 0.2, "test": 0.2}),
    ],
)
def test_object_sizes_are_mixed_alike(tmp_path: Path, split: str, shares: dict[str, float], seed: int) -> None:
    # 60 images, 12 of each size, in 30 groups of 2 with one size each. The export sorts them by size: train has the
    # three smallest, val the next, test the largest.
    document = content(60, height=32, width=32)
    size_of = {}
    for number, (image, annotation) in enumerate(zip(document["images"], document["annotations"], strict=True)):
        side = SIDES[number // 12]
        image["patient"] = f"p{number // 2}"
        size_of[image["file_name"]] = side
        annotation["area"] = side**2
        annotation["segmentation"] = [[4, 4, 4 + side, 4, 4 + side, 4 + side, 4, 4 + side]] if side else []
    manifest = converted(divided(tmp_path, document, (36, 48)), split, seed)
    if split == "official":
        assert sizes(manifest, "train", size_of) == {0: 12, 4: 12, 8: 12}
        return
    for name, share in shares.items():
        found = sizes(manifest, name, size_of)
        # 7.2 of each size in train and 2.4 in val and test; groups of 2 cannot come nearer than 0.8 and 0.4, and one
        # group more or less is allowed
        assert all(abs(found[side] - share * 12) <= 2 for side in SIDES), (name, found)
    assert json.loads((manifest.folder / "manifest.json").read_text())["split"] == split
