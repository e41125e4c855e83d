"""Where the splits of an export lie, found by looking.

Two layouts are known:

    Roboflow                               COCO
    train/_annotations.coco.json           annotations/instances_train.json      (or instances_train2017.json)
    train/IMAGE                            train/IMAGE or images/train/IMAGE     (or train2017/, images/train2017/)
    valid/..., test/...                    the same for val and test

A set of corrections has the split train alone, in either layout.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seg.data.manifest import SPLITS
from seg.errors import UserError

ROBOFLOW_ANNOTATIONS = "_annotations.coco.json"
ADDITIONAL = "additional"  # what a set of corrections is called beside the splits
SPELLINGS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME = re.compile(rf"({'|'.join(sorted(SPELLINGS, key=len, reverse=True))})(\d*)")


@dataclass(frozen=True, kw_only=True)
class SplitSource:
    """One split of an export.

    Attributes:
        name: `train`, `val` or `test`; `additional` for a set of corrections.
        annotations: its COCO file.
        images: the folder that its `file_name`s are relative to.
    """

    name: str
    annotations: Path
    images: Path


def find_splits(data: Path) -> tuple[SplitSource, ...]:
    """The splits train, val and test of an export, in this order.

    Raises:
        UserError: if the folder or one of the splits is missing, or if a split is there twice.
    """
    if not data.is_dir():
        raise UserError(f"data must be the folder of a COCO export, and {data} is not a folder; check the path.")
    found = _roboflow(data) or _standard(data)
    if not found:
        raise UserError(
            f"{data} holds no COCO annotations: expected train/{ROBOFLOW_ANNOTATIONS} (Roboflow) or "
            "annotations/instances_train.json (COCO); export the dataset as COCO segmentation."
        )
    missing = [name for name in SPLITS if name not in found]
    if missing:
        raise UserError(
            f"{data} must hold the splits train, val and test; missing: {', '.join(missing)} "
            f"(found: {', '.join(found)}); export it again with all three."
        )
    return tuple(found[name] for name in SPLITS)


def find_additional(folder: Path) -> SplitSource:
    """Where a set of corrections lies.

    Raises:
        UserError: if the folder is missing, or holds anything but the split train.
    """
    found = (_roboflow(folder) or _standard(folder)) if folder.is_dir() else {}
    if tuple(found) != ("train",):
        raise UserError(
            f"additional must be a folder with the split train alone, such as train/{ROBOFLOW_ANNOTATIONS}, and "
            f"{folder} has {', '.join(found) or 'none'}; give the folder of corrections that app writes."
        )
    return SplitSource(name=ADDITIONAL, annotations=found["train"].annotations, images=found["train"].images)


def image_path(file_name: str, data: Path, additional: Path | None) -> Path:
    """The file of an `Example` whose name is relative to the export; behind `additional/`, to the corrections."""
    beside = file_name.removeprefix(f"{ADDITIONAL}/")
    return data / file_name if additional is None or beside == file_name else additional / beside


def _roboflow(data: Path) -> dict[str, SplitSource]:
    return _by_name((path.parent.name, path, path.parent) for path in sorted(data.glob(f"*/{ROBOFLOW_ANNOTATIONS}")))


def _standard(data: Path) -> dict[str, SplitSource]:
    candidates = []
    for path in sorted((data / "annotations").glob("instances_*.json")):
        spelling = path.stem.removeprefix("instances_")
        if _NAME.fullmatch(spelling):
            candidates.append((spelling, path, _image_folder(data, spelling, path)))
    return _by_name(candidates)


def _image_folder(data: Path, spelling: str, annotations: Path) -> Path:
    match = _NAME.fullmatch(spelling)
    assert match is not None  # the caller has looked
    others = [name for name, split in SPELLINGS.items() if split == SPELLINGS[match[1]]]
    names = dict.fromkeys([spelling, match[1], *others])
    folders = [folder for name in names for folder in (data / name, data / "images" / name)] + [data / "images"]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(
        f"{annotations} has no image folder: expected {data / spelling} or {data / 'images' / spelling}; "
        "put the images of the split there."
    )


def _by_name(candidates: Iterable[tuple[str, Path, Path]]) -> dict[str, SplitSource]:
    found: dict[str, SplitSource] = {}
    for spelling, annotations, images in candidates:
        match = _NAME.fullmatch(spelling)
        if not match:
            continue
        name = SPELLINGS[match[1]]
        if name in found:
            raise UserError(
                f"split {name} must be there once, found {found[name].annotations} and {annotations}; remove one."
            )
        found[name] = SplitSource(name=name, annotations=annotations, images=images)
    return found
