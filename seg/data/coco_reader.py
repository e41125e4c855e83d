"""Reads one COCO annotation file and checks all of it in Python, before any C code sees a number.

`read_annotations` returns only what is safe to use, and a `Problem` for everything else.

Not a problem, because it occurs in good exports: images without annotations, empty segmentations, categories without
annotations, tiny annotations, coordinates a little outside the image, a missing `iscrowd` (0), a byte order mark.
Annotations for unknown images are noted and harm nothing; so is an `area` that is none.
"""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from seg.data.coco import Annotation, AnnotationFile, Category, ImageEntry, Problem
from seg.data.coco_fields import (
    checked_file_name,
    checked_id,
    checked_integer,
    checked_size,
    checked_text,
    placed,
    required,
)
from seg.data.group_column import group_in_column
from seg.data.images import MAX_PIXELS
from seg.data.segmentation import (
    BrokenRule,
    check_segmentation,
    most_outline,
    outline_length,
    printable,
    shown,
)
from seg.errors import UserError


def read_annotations(path: Path, content: bytes, split: str, group_column: str = "") -> AnnotationFile:
    """Checks the content of an annotation file.

    Args:
        path: for messages.
        content: the file's bytes.
        split: train, val or test.
        group_column: key of the image entries that names their group; empty: none.

    Raises:
        UserError: if the content is no JSON object with lists of images, annotations and categories; everything
            smaller becomes a `Problem`.
    """
    lists = _parse(path, content)
    reader = _Reader(path, split, group_column)
    categories = reader.categories(lists["categories"])
    images = reader.images(lists["images"])
    annotations = reader.annotations(lists["annotations"], {category.id for category in categories}, images)
    lost = {problem.image_id for problem in reader.problems if problem.fatal}
    return AnnotationFile(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        categories=tuple(categories),
        images=tuple(image for image in images.values() if image.id not in lost),
        annotations=tuple(annotation for annotation in annotations if annotation.image_id not in lost),
        problems=tuple(reader.problems),
    )


def _parse(path: Path, content: bytes) -> dict[str, list[Any]]:
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise UserError(f"{path} must be a COCO file, and it is nested too deeply; export it again.") from None
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        state = "is empty" if not content.strip() else f"is damaged or cut off ({error})"
        raise UserError(f"{path} must be a JSON file, and it {state}; export it again.") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} must hold a JSON object, got {shown(parsed)}; export it as COCO.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(parsed.get(key), list):
            found = f"got {shown(parsed[key])}" if key in parsed else "it is missing"
            raise UserError(f"{path} must hold a list '{key}', {found}; export it as COCO.")
    return parsed


class _Reader:
    """Collects the problems of one file while its three lists are read."""

    def __init__(self, path: Path, split: str, group_column: str) -> None:
        self.path = path
        self.split = split
        self._group_column = group_column
        self.problems: list[Problem] = []

    def add(self, broken: BrokenRule, image: ImageEntry | None = None, **about: Any) -> None:
        """Notes a broken rule."""
        if image is not None:
            about |= {"image_id": image.id, "file_name": image.file_name}
        self.problems.append(
            Problem(split=self.split, file=str(self.path), rule=broken.rule, message=broken.message, **about)
        )

    def categories(self, entries: list[Any]) -> list[Category]:
        """The valid categories; a second one with the same id is a problem."""
        found: dict[int, Category] = {}
        for index, entry in enumerate(entries):
            try:
                identity = checked_id(entry, "categories", index)
                with placed("categories", index, identity):
                    category = Category(id=identity, name=checked_text(entry, "name"))
                if category.id in found:
                    raise BrokenRule("duplicate_category_id", f"category id {category.id} must be there once")
                found[category.id] = category
            except BrokenRule as broken:
                self.add(broken)
        return list(found.values())

    def images(self, entries: list[Any]) -> dict[int, ImageEntry]:
        """The images by id. One with a problem stays in, so that its annotations are known to belong to it."""
        counts = Counter(entry["id"] for entry in entries if isinstance(entry, dict) and type(entry.get("id")) is int)
        found: dict[int, ImageEntry] = {}
        for index, entry in enumerate(entries):
            try:
                identity = checked_id(entry, "images", index)
            except BrokenRule as broken:
                self.add(broken)
                continue
            name = entry.get("file_name")
            shown_name = printable(name) if isinstance(name, str) else None
            about: dict[str, Any] = {"image_id": identity, "file_name": shown_name}
            try:
                if counts[identity] > 1:
                    raise BrokenRule(
                        "duplicate_image_id", f"image id {identity} must be there once, got {counts[identity]}"
                    )
                with placed("images", index, identity):
                    file_name = checked_file_name(entry)
                height, width = checked_size(entry)
                group = group_in_column(entry, self._group_column) if self._group_column else None
                found[identity] = ImageEntry(id=identity, file_name=file_name, height=height, width=width, group=group)
            except BrokenRule as broken:
                self.add(broken, **about)
                # Its annotations are not for an unknown image; size 1 × 1 is never used, for the image is left out.
                found[identity] = ImageEntry(id=identity, file_name=str(about["file_name"]), height=1, width=1)
        return found

    def annotations(self, entries: list[Any], categories: set[int], images: dict[int, ImageEntry]) -> list[Annotation]:
        """The valid annotations of images without a problem of their own."""
        lost = {problem.image_id for problem in self.problems}
        seen: set[int] = set()
        lengths: Counter[int] = Counter()  # of the outlines, by image
        found = []
        for index, entry in enumerate(entries):
            image = None
            label = entry.get("id", f"at position {index}") if isinstance(entry, dict) else f"at position {index}"
            try:
                image_id = checked_integer(required(entry, "image_id"), "image_id")
                image = images.get(image_id)
                identity = checked_id(entry, "annotations", index)
                if identity in seen:
                    raise BrokenRule("duplicate_annotation_id", f"annotation id {identity} must be there once")
                seen.add(identity)
                if image is None:
                    broken = BrokenRule("unknown_image", f"there is no image with id {image_id}; it is passed over")
                    self.add(broken, annotation_id=identity)
                elif image_id not in lost:
                    annotation = _annotation(entry, identity, image, categories)
                    lengths[image_id] += math.ceil(outline_length(annotation.segmentation))
                    if lengths[image_id] > (most := most_outline(image.height, image.width)):
                        lost.add(image_id)
                        raise BrokenRule(
                            "outlines_too_long",
                            f"the outlines of a {image.width}×{image.height} image must be at most {most} pixels long "
                            f"together, got {lengths[image_id]} up to this annotation",
                        )
                    found.append(annotation)
                    if annotation.area is None and entry.get("area") is not None:
                        stated = shown(entry["area"])
                        self.add(
                            BrokenRule("area_type", f"area must be a number of pixels, got {stated}; it is not used"),
                            annotation_id=identity,
                        )
            except BrokenRule as broken:
                self.add(broken, image, annotation_id=shown(label) if not isinstance(label, int) else label)
        return found


def _annotation(entry: dict[str, Any], identity: int, image: ImageEntry, categories: set[int]) -> Annotation:
    category_id = checked_integer(required(entry, "category_id"), "category_id")
    if category_id not in categories:
        raise BrokenRule("unknown_category", f"there is no category with id {category_id}")
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise BrokenRule("crowd_type", f"iscrowd must be 0 or 1, got {shown(crowd)}")
    segmentation = check_segmentation(required(entry, "segmentation"), image.height, image.width)
    area = entry.get("area")
    known = isinstance(area, (int, float)) and not isinstance(area, bool) and 0 <= area <= MAX_PIXELS
    return Annotation(
        id=identity,
        image_id=image.id,
        category_id=category_id,
        crowd=bool(crowd),
        segmentation=segmentation,
        area=float(area) if known and area is not None else None,
    )
