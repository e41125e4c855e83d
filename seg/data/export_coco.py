"""A converted dataset back as a COCO export: its division, its merged masks, its images.

    OUTPUT/train/_annotations.coco.json, and the images beside it; the same in valid/ and test/ (Roboflow's layout)

`convert` of that folder gives the same masks and the same keys of the splits.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seg.data.coco import Category
from seg.data.coco_writer import CocoWriter, annotation_of
from seg.data.layout import ADDITIONAL, ROBOFLOW_ANNOTATIONS, find_splits, image_path
from seg.data.manifest import Example, Manifest
from seg.data.masks import region
from seg.data.splits import OFFICIAL
from seg.errors import UserError

FOLDERS = {"train": "train", "val": "valid", "test": "test"}
FOREGROUND = 1  # id of the first category, and of ignored regions
_BAR_AFTER = 2  # seconds


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: images and annotations in all splits."""

    images: int
    annotations: int


def export_coco(
    manifest: Manifest, data: Path, output: Path, *, segmentation: str = "rle", additional: Path | None = None
) -> Exported:
    """Writes a converted dataset as a COCO export, beside `output` first, then renamed.

    Images are copied: a link out of the folder is refused by `convert`, and a hard link would carry what somebody does
    to the copy back into the original. Image ids run on through the splits, in the order of the records.

    Args:
        manifest: of the dataset.
        data: the export that it was converted from, which holds the images.
        output: becomes the new export; must not exist, or be empty.
        segmentation: `rle` or `polygon`. Ignored pixels become a crowd region, always as run lengths.
        additional: folder of the set of corrections that was converted with it; its images come to train/additional/.

    Raises:
        UserError: if `output` is in use or cannot be written, or an image is not the one that was converted.
    """
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"output must be a new or an empty folder, and {output} is not; choose another.")
        place = output.resolve()
        partial = place.with_name(f".{place.name}.partial.{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            exported = _write_splits(manifest, data, additional, partial, segmentation)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"output must be a folder that can be written, got {output} ({error}).") from None
    return exported


def category_name(manifest: Manifest) -> str:
    """Of one class, the name of the only foreground category that has annotations; `foreground` of several merged."""
    names = {category["name"] for category in manifest.categories if category["used"] and category["annotations"]}
    return names.pop() if len(names) == 1 else "foreground"


def _write_splits(manifest: Manifest, data: Path, additional: Path | None, folder: Path, segmentation: str) -> Exported:
    total = sum(summary.examples for summary in manifest.splits.values())
    folders = _image_folders(manifest, data)
    images = annotations = 0
    with tqdm(total=total, desc="export", unit="image", delay=_BAR_AFTER) as bar:
        for split in manifest.splits:
            (folder / FOLDERS[split]).mkdir()
            with CocoWriter(
                folder / FOLDERS[split] / ROBOFLOW_ANNOTATIONS,
                categories=_categories(manifest),
                info=_info(manifest, split),
            ) as writer:
                for example in manifest.examples(split):
                    images += 1
                    corrected = example.file_name.startswith(f"{ADDITIONAL}/")
                    file_name = os.path.relpath(example.file_name, Path() if corrected else folders[split])
                    _copy(example, image_path(example.file_name, data, additional), folder / FOLDERS[split] / file_name)
                    writer.add_image(images, file_name, height=example.height, width=example.width)
                    for annotation in _annotations(example, images, segmentation):
                        writer.add_annotation(annotation)
                    bar.update()
            annotations += writer.annotations
    return Exported(images=images, annotations=annotations)


def _categories(manifest: Manifest) -> list[Category]:
    names = manifest.classes if len(manifest.classes) > 1 else [category_name(manifest)]
    return [Category(id=number, name=name) for number, name in enumerate(names, start=FOREGROUND)]


def _image_folders(manifest: Manifest, data: Path) -> dict[str, Path]:
    """The folder in the old export that the new file names of a split are relative to.

    Names stay as they were in an official split; another division brings images of several folders together.
    """
    if manifest.split != OFFICIAL:
        return dict.fromkeys(manifest.splits, Path())
    root = data.resolve()
    return {source.name: source.images.resolve().relative_to(root) for source in find_splits(data)}


def _info(manifest: Manifest, split: str) -> dict[str, object]:
    return {
        "description": f"{manifest.name}, {split}: masks of a converted dataset",
        "tool": "seg export_coco",
        "dataset": manifest.name,
        "dataset_key": manifest.key,
        "split": manifest.split,
        "split_key": manifest.splits[split].key,
        "settings": manifest.settings,
    }


def _copy(example: Example, source: Path, path: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}); run convert again.") from None
    if hashlib.sha256(content).hexdigest() != example.sha256:
        raise UserError(f"{source} must be the image that was converted; run convert again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _annotations(example: Example, image_id: int, segmentation: str) -> Iterator[dict[str, Any]]:
    """The foreground, class by class, unless there is none, and what is ignored."""
    mask = region(example.mask, example.height, example.width)
    for category, counts in enumerate(example.classes or [example.mask], start=FOREGROUND):
        found = region(counts, example.height, example.width)
        if found.any():
            yield annotation_of(found, image_id=image_id, category_id=category, segmentation=segmentation)
    if example.ignore is not None:
        ignored = region(example.ignore, example.height, example.width)
        yield annotation_of(ignored, image_id=image_id, category_id=FOREGROUND, crowd=True)
        if not mask.any():
            # Where every annotation is a crowd, `convert` takes crowds for foreground; here they are not.
            yield annotation_of(mask, image_id=image_id, category_id=FOREGROUND)
