"""`Context`: what the checks look at, the converted dataset beside its export, read once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from seg.data.audit.headers import HEADER_BYTES, Header, read_header
from seg.data.baselines import thumbnails
from seg.data.coco import Annotation, AnnotationFile, ImageEntry
from seg.data.coco_reader import read_annotations
from seg.data.files import read_annotation_file
from seg.data.groups import compiled_pattern, group_in_name
from seg.data.layout import ADDITIONAL, SplitSource, find_additional, find_splits, image_path
from seg.data.manifest import Example, Manifest
from seg.data.masks import measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """An example of the converted dataset.

    Attributes:
        split, index: its record's place.
        name: of the image, relative to its image folder in the export.
    """

    split: str
    index: int
    name: str
    example: Example


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An annotation of the export with its image.

    Attributes:
        source: split of the export.
        file_name: of the image, relative to the export.
        area: rasterised, in pixels of the image.
        box: left, top, width and height of what was rasterised.
    """

    source: str
    file_name: str
    image: ImageEntry
    annotation: Annotation
    area: int
    box: tuple[int, int, int, int]


class Context:
    """A converted dataset and the export that it comes from.

    Attributes:
        data: folder of the export.
        additional: folder of the set of corrections; None where there is none.
        manifest: of the converted dataset.
        group_pattern, group_column: what names the groups; both empty: nothing does.
        sources, files: where the export's splits and the corrections lie, and their annotation files.

    Raises:
        UserError: if the export cannot be read.
    """

    def __init__(
        self,
        data: Path,
        manifest: Manifest,
        *,
        group_pattern: str = "",
        group_column: str = "",
        additional: Path | None = None,
    ) -> None:
        self.data = data
        self.additional = additional
        self.manifest = manifest
        self.group_pattern = group_pattern
        self.group_column = group_column
        converted_with = manifest.settings.get("group_column", "")
        self.sources: dict[str, SplitSource] = {source.name: source for source in find_splits(data)}
        root = data.resolve()
        self._prefixes = {
            name: source.images.resolve().relative_to(root).as_posix() for name, source in self.sources.items()
        }
        if additional is not None:
            source = self.sources[ADDITIONAL] = find_additional(additional)
            folder = source.images.resolve().relative_to(additional.resolve()).as_posix()
            self._prefixes[ADDITIONAL] = f"{ADDITIONAL}/{folder}"
        # Corrections have no groups.
        self.files: dict[str, AnnotationFile] = {
            name: self._read(source, "" if name == ADDITIONAL else converted_with)
            for name, source in self.sources.items()
        }

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """The examples by split, in the order of the records."""
        folders = sorted({f"{prefix}/" for prefix in self._prefixes.values()}, key=len, reverse=True)

        def name(file_name: str) -> str:
            return next(
                (file_name.removeprefix(folder) for folder in folders if file_name.startswith(folder)), file_name
            )

        return {
            split: [
                Row(split=split, index=index, name=name(example.file_name), example=example)
                for index, example in enumerate(self.manifest.examples(split))
            ]
            for split in self.manifest.splits
        }

    @cached_property
    def by_file_name(self) -> dict[str, Row]:
        """The examples by file name, relative to the export."""
        return {row.example.file_name: row for rows in self.rows.values() for row in rows}

    @cached_property
    def groups(self) -> dict[str, str]:
        """The given group of each image that has one, by file name relative to the export."""
        if self.group_column:
            # Read anew: an official split was converted without looking at the column, and keeps images without it.
            sources = [source for name, source in self.sources.items() if name != ADDITIONAL]
            files = {source.name: self._read(source, self.group_column) for source in sources}
            entries = ((name, image) for name, file in files.items() for image in file.images)
            return {self.file_name(name, image): str(image.group) for name, image in entries}
        if self.group_pattern:
            pattern = compiled_pattern(self.group_pattern)
            found = {name: group_in_name(pattern, row.name) for name, row in self.by_file_name.items()}
            return {name: group for name, group in found.items() if group is not None}
        return {}

    @cached_property
    def headers(self) -> dict[str, Header]:
        """What the header of each image file says, by file name relative to the export."""
        return {name: self._header(name) for name in self.by_file_name}

    @cached_property
    def thumbnails(self) -> dict[str, np.ndarray]:
        """Small pictures whose products are correlations, by split: shape (examples, pixels)."""
        return {split: thumbnails(self.manifest, split) for split in self.manifest.splits}

    @cached_property
    def labelled(self) -> list[Labelled]:
        """Every annotation that is safe to rasterise, of all categories, in the order of the files."""
        return list(self._labelled())

    def path(self, file_name: str) -> Path:
        """The image file that an `Example` names."""
        return image_path(file_name, self.data, self.additional)

    def _read(self, source: SplitSource, group_column: str) -> AnnotationFile:
        root = self.additional if self.additional is not None and source.name == ADDITIONAL else self.data
        content = read_annotation_file(source.annotations, root)
        return read_annotations(source.annotations, content, source.name, group_column)

    def _header(self, file_name: str) -> Header:
        try:
            with self.path(file_name).open("rb") as file:
                return read_header(file.read(HEADER_BYTES))
        except OSError:
            return Header(format="unknown")

    def file_name(self, source: str, image: ImageEntry) -> str:
        """An image of the export as the `Example` names it."""
        return f"{self._prefixes[source]}/{image.file_name}"

    def _labelled(self) -> Iterator[Labelled]:
        for source, file in self.files.items():
            images = {image.id: image for image in file.images}
            for annotation in file.annotations:
                image = images[annotation.image_id]
                area, box = measure(annotation.segmentation, image.height, image.width)
                yield Labelled(
                    source=source,
                    file_name=self.file_name(source, image),
                    image=image,
                    annotation=annotation,
                    area=area,
                    box=box,
                )
