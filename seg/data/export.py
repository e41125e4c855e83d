"""A COCO export as read and checked: what there is to convert, and what is wrong with the rest."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seg.data.classes import BINARY, find_classes
from seg.data.coco import Annotation, AnnotationFile, Category, ImageEntry, Problem
from seg.data.coco_reader import read_annotations
from seg.data.files import HashCache, ImageFolder, read_annotation_file
from seg.data.group_column import MISSING
from seg.data.layout import ADDITIONAL, SplitSource, find_additional, find_splits
from seg.data.masks import used_categories
from seg.data.segmentation import BrokenRule, listed
from seg.errors import UserError

FOREGROUND = "foreground"  # in a set of corrections, a category of this name is always wanted
CONVERTER = 3  # raise it when the same input would give other records


@dataclass(frozen=True, kw_only=True)
class ExportedImage:
    """An image of the export with its file and the annotations of the used categories.

    Attributes:
        source: the split of the export that it comes from, or `additional`.
        path, found: its file, and what the system said of it.
        sha256: of the file's bytes; empty where nobody has read it yet.
        group: as in `Example`.
    """

    source: str
    entry: ImageEntry
    path: Path
    found: os.stat_result
    sha256: str
    annotations: tuple[Annotation, ...]
    group: str | None = None


class Export:
    """An export, read and checked.

    Attributes:
        data: its folder.
        additional: folder of a set of corrections; None where there is none.
        categories: the wanted categories, as given.
        classes: their classes.
        sources, files, images: by split, and `additional`: where it lies, its annotation file, its images (after
            `locate_images`).
        crowds: what crowd regions are in effect: where every annotation is a crowd, they are foreground.
        problems: every broken rule so far.
    """

    def __init__(
        self,
        data: Path,
        categories: str,
        crowds: str,
        group_column: str = "",
        additional: Path | None = None,
        classes: str = BINARY,
    ) -> None:
        self.data = data
        self.additional = additional
        self.categories = categories
        self.sources: dict[str, SplitSource] = {source.name: source for source in find_splits(data)}
        self.files: dict[str, AnnotationFile] = {
            name: _read(source, data, group_column) for name, source in self.sources.items()
        }
        everything = {category for file in self.files.values() for category in file.categories}
        annotated = {name for file in self.files.values() for name in _annotated(file)}
        self.classes = find_classes(everything, used_categories(everything, categories), annotated, classes)
        wanted = set(self.classes.labels)
        names = dict.fromkeys(self.files, wanted)
        if additional is not None:
            self.sources[ADDITIONAL] = find_additional(additional)
            self.files[ADDITIONAL] = _read(self.sources[ADDITIONAL], additional, "")
            corrections = self.files[ADDITIONAL]
            if len(self.classes.names) > 1:
                names[ADDITIONAL] = _classes_in_additional(corrections, wanted)
            else:
                asked = categories if self.classes.setting == BINARY else self.classes.setting
                names[ADDITIONAL] = _used_in_additional(corrections, asked, wanted)
        self.images: dict[str, list[ExportedImage]] = {}
        self.problems = [problem for file in self.files.values() for problem in file.problems]
        self._used = {
            name: {category.id for category in file.categories if category.name in names[name]}
            for name, file in self.files.items()
        }
        flags = {
            annotation.crowd for name in self.files if name != ADDITIONAL for annotation in self._used_annotations(name)
        }
        self.crowds = "foreground" if flags == {True} else crowds

    def _used_annotations(self, split: str) -> Iterator[Annotation]:
        used = self._used[split]
        return (annotation for annotation in self.files[split].annotations if annotation.category_id in used)

    def locate_images(self, cache: HashCache, *, read: bool = True) -> None:
        """Finds and hashes the image files; what cannot be read becomes a problem.

        Args:
            cache: remembers hashes.
            read: files whose hash it does not remember; else `add_hashes` must follow.
        """
        for name, file in self.files.items():
            folder = ImageFolder(self.sources[name].images, self.root(name).resolve())
            annotations: dict[int, list[Annotation]] = {image.id: [] for image in file.images}
            for annotation in self._used_annotations(name):
                annotations[annotation.image_id].append(annotation)
            located = []
            for entry in file.images:
                try:
                    located.append((entry, *folder.locate(entry.file_name)))
                except BrokenRule as broken:
                    self.problems.append(image_problem(name, entry, self.sources[name].images, broken))
            files = [(path, found) for _, path, found in located]
            hashes: Sequence[str | BrokenRule]
            hashes = cache.hashes(files) if read else [cache.known(*file) for file in files]
            self.images[name] = []
            for (entry, path, found), sha256 in zip(located, hashes, strict=True):
                if isinstance(sha256, BrokenRule):
                    self.problems.append(image_problem(name, entry, self.sources[name].images, sha256))
                else:
                    self.images[name].append(
                        ExportedImage(
                            source=name,
                            entry=entry,
                            path=path,
                            found=found,
                            sha256=sha256,
                            annotations=tuple(annotations[entry.id]),
                        )
                    )

    def add_hashes(self, cache: HashCache, hashes: Mapping[Path, str]) -> None:
        """After `locate_images`: the hashes that are missing, of files that were read meanwhile; reads the others.

        The hash of a file that cannot be read stays empty.
        """
        for path, sha256 in hashes.items():
            cache.learn(path, sha256)
        for images in self.images.values():
            unknown = [row for row, image in enumerate(images) if not image.sha256]
            unread = [row for row in unknown if images[row].path not in hashes]
            read = dict(zip(unread, cache.hashes((images[row].path, images[row].found) for row in unread), strict=True))
            for row in unknown:
                digest: str | BrokenRule = read.get(row) or hashes[images[row].path]
                images[row] = replace(images[row], sha256="" if isinstance(digest, BrokenRule) else digest)

    def check_splits(self) -> None:
        """After `locate_images`: whether each split still has an image.

        Raises:
            UserError: if one has none.
        """
        for name, images in self.images.items():
            if not images:
                lost = [problem for problem in self.problems if problem.split == name and problem.fatal]
                reason = str(lost[0]) if lost else "its list of images is empty"
                raise UserError(f"split {name} must have at least one usable image ({reason}); export it again.")

    def labels(self, source: str) -> dict[int, int]:
        """The class of each foreground category of a source, by the category's id there."""
        labels = self.classes.labels
        return {
            category.id: labels[category.name] for category in self.files[source].categories if category.name in labels
        }

    def root(self, source: str) -> Path:
        """The folder that the images of a source must lie in."""
        return self.additional if self.additional is not None and source == ADDITIONAL else self.data

    def prefix(self, source: str) -> str:
        """What stands before a `file_name` of a source, in the `file_name` of an `Example`."""
        folder = self.sources[source].images.resolve().relative_to(self.root(source).resolve()).as_posix()
        return f"{ADDITIONAL}/{folder}" if source == ADDITIONAL else folder

    def key(self, settings: dict[str, Any], *, contents: bool = True) -> str:
        """Hash of everything that decides the converted dataset, which has no images whose file cannot be read.

        Args:
            settings: of the conversion.
            contents: of the image files; without them, the key of all exports with the same annotation files.
        """
        content = {
            "converter": CONVERTER,
            "settings": settings,
            "splits": {
                name: [
                    self.files[name].sha256,
                    [(image.entry.file_name, image.sha256) for image in images if image.sha256] if contents else [],
                ]
                for name, images in self.images.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def category_map(self) -> list[dict[str, Any]]:
        """The categories of all splits, with the number of their annotations and whether they are foreground."""
        counts: Counter[Category] = Counter()
        used: dict[Category, bool] = {}
        for name, file in self.files.items():
            by_id = {category.id: category for category in file.categories}
            for category in file.categories:
                used[category] = used.get(category, False) or category.id in self._used[name]
            counts.update(by_id[annotation.category_id] for annotation in file.annotations)
        return [asdict(category) | {"annotations": counts[category], "used": used[category]} for category in used]


def _read(source: SplitSource, root: Path, group_column: str) -> AnnotationFile:
    content = read_annotation_file(source.annotations, root)
    file = read_annotations(source.annotations, content, source.name, group_column)
    missing = [problem.message for problem in file.problems if problem.rule == MISSING]
    if missing and not any(image.group for image in file.images):
        raise UserError(
            f"group_column must name what images have, and none in {source.annotations} does: {missing[0]}."
        )
    return file


def _annotated(file: AnnotationFile) -> set[str]:
    used = {annotation.category_id for annotation in file.annotations}
    return {category.name for category in file.categories if category.id in used}


def _classes_in_additional(file: AnnotationFile, wanted: set[str]) -> set[str]:
    """As `_used_in_additional` for several classes: a correction that says foreground does not say of which one."""
    if strange := _annotated(file) - wanted:
        raise UserError(
            f"additional must have the categories of the classes, {listed(wanted)}, got {listed(strange)}; rename "
            "them, or use classes=binary."
        )
    return wanted


def _used_in_additional(file: AnnotationFile, categories: str, wanted: set[str]) -> set[str]:
    """The names of the categories of a set of corrections that are foreground."""
    known = {category.name for category in file.categories}
    used = known if categories == "all" else known & (wanted | {FOREGROUND})
    if file.annotations and not used:
        raise UserError(
            f"additional must have one of the categories {listed(wanted | {FOREGROUND})}, got "
            f"{listed(known)}; rename its category to {FOREGROUND}."
        )
    return used


def image_problem(split: str, entry: ImageEntry, folder: Path, broken: BrokenRule) -> Problem:
    """A rule that an image file breaks, `folder` being the split's image folder."""
    return Problem(
        split=split,
        file=str(folder / entry.file_name),
        rule=broken.rule,
        message=broken.message,
        image_id=entry.id,
        file_name=entry.file_name,
    )
