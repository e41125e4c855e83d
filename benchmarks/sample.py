"""A part of an export, where all of it would take too long: the first images of each split."""

import json
import shutil
from pathlib import Path

from seg.data.layout import ROBOFLOW_ANNOTATIONS, SplitSource, find_splits


def sample(export: Path, folder: Path, images: int) -> Path:
    """Folder of an export with at most so many images, each split's share of them; the export itself where it is small.

    Args:
        export: folder of a COCO export.
        folder: `folder/sample_IMAGES` is written, unless it is there.
        images: of all splits together.
    """
    splits = {split: json.loads(split.annotations.read_bytes().decode("utf-8-sig")) for split in find_splits(export)}
    everything = sum(len(content["images"]) for content in splits.values())
    if everything <= images:
        return export
    written = folder / f"sample_{images}"
    shutil.rmtree(written, ignore_errors=True)
    for split, content in splits.items():
        _write(split, content, written / split.name, max(1, len(content["images"]) * images // everything))
    return written


def _write(split: SplitSource, content: dict[str, list[dict[str, object]]], folder: Path, images: int) -> None:
    chosen = content["images"][:images]
    identities = {entry["id"] for entry in chosen}
    annotations = [entry for entry in content["annotations"] if entry["image_id"] in identities]
    for entry in chosen:
        place = folder / str(entry["file_name"])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(split.images / str(entry["file_name"]), place)
    kept = content | {"images": chosen, "annotations": annotations}
    (folder / ROBOFLOW_ANNOTATIONS).write_text(json.dumps(kept), encoding="utf-8")
