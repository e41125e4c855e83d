"""What a COCO annotation file holds, once it is checked: categories, images, annotations, and what is wrong with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg.data.segmentation import Polygons, RunLengths
from seg.errors import one_line

HARMLESS = ("unknown_image", "area_type", "split_gap", "corrected")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One broken rule.

    Attributes:
        split: train, val or test.
        file: the annotation file or the image file in which it was found.
        rule: short name, such as `too_few_points`.
        message: one line for people.
        image_id: the image that cannot be used because of it; None where no image is concerned.
        file_name: of that image.
        annotation_id: the annotation at fault as the file spells it; None where it is none.
    """

    split: str
    file: str
    rule: str
    message: str
    image_id: int | None = None
    file_name: str | None = None
    annotation_id: Any = None

    @property
    def fatal(self) -> bool:
        """Whether it costs an image or an annotation of a known image; the rest is worth noting and harms nothing."""
        return self.rule not in HARMLESS

    @property
    def unassigned(self) -> bool:
        """Whether it is an annotation of which nobody can tell the image."""
        return self.annotation_id is not None and self.image_id is None

    def __str__(self) -> str:
        where = [self.file]
        if self.file_name and not self.file.endswith(self.file_name):
            where.append(f"image {self.file_name}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        return one_line(f"{', '.join(where)}: {self.rule}: {self.message}")


@dataclass(frozen=True, kw_only=True)
class Category:
    """A category of the export."""

    id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """An image as the annotation file describes it: size in pixels, file name relative to the split's image folder.

    `group` is what the asked column says; None where none is asked for.
    """

    id: int
    file_name: str
    height: int
    width: int
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An annotation that is safe to rasterise at its image's size; `area` is what the file claims, if it does."""

    id: int
    image_id: int
    category_id: int
    crowd: bool
    segmentation: Polygons | RunLengths
    area: float | None


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """What one annotation file holds, in the file's order. Images with a fatal problem are not in `images`."""

    path: Path
    sha256: str
    categories: tuple[Category, ...]
    images: tuple[ImageEntry, ...]
    annotations: tuple[Annotation, ...]
    problems: tuple[Problem, ...]
