"""The area certificate: what each annotation covers once it is rasterised, beside the area that its file states.

The two agree when they differ by at most half a pixel along the border of the annotation's box, so by
width + height + 1 pixels: that much is rounding. More is an outline that crosses itself, a hole that was lost, or an
image that was resized after it was annotated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

TOLERANCE = "half a pixel along the border of the annotation's box"


class AnnotationArea(NamedTuple):
    """Both areas of one annotation, in pixels of the image's own size.

    Attributes:
        annotation_id: in the COCO file of its split.
        rasterised: number of pixels that pycocotools covers.
        stated: what the file says; None where it says nothing usable.
        agrees: whether the two differ by no more than rounding; None where none is stated.
    """

    annotation_id: int
    rasterised: int
    stated: float | None
    agrees: bool | None


@dataclass(frozen=True, kw_only=True)
class AreaCertificate:
    """The areas of a converted dataset in short.

    Attributes:
        annotations: how many were rasterised.
        stated: how many of these have an area in their file.
        agreeing: how many of these cover what is stated, within the tolerance.
        tolerance: what that is, in words.
        largest_deviation: the largest difference, as a share of the larger of the two areas, in [0, 1].
        annotation_id, file_name: where it is; None where nothing deviates.
    """

    annotations: int = 0
    stated: int = 0
    agreeing: int = 0
    tolerance: str = TOLERANCE
    largest_deviation: float = 0.0
    annotation_id: int | None = None
    file_name: str | None = None

    def __str__(self) -> str:
        line = f"areas: {self.agreeing:,} of {self.stated:,} annotations cover the area that the file states"
        if not self.file_name:
            return line
        return (
            f"{line}; the largest difference is {self.largest_deviation:.0%}, annotation {self.annotation_id} of "
            f"{self.file_name}"
        )


def compare_areas(annotation_id: int, rasterised: int, width: int, height: int, stated: float | None) -> AnnotationArea:
    """Compares the two areas of an annotation; `width` and `height` are those of the box of what it covers."""
    agrees = None if stated is None else abs(rasterised - stated) <= width + height + 1
    return AnnotationArea(annotation_id, rasterised, stated, agrees)


def summarise_areas(images: Iterable[tuple[str, Iterable[AnnotationArea]]]) -> AreaCertificate:
    """The certificate of a dataset from each image's file name and areas."""
    annotations = stated = agreeing = 0
    worst: dict[str, Any] = {}
    for file_name, areas in images:
        for area in areas:
            annotations += 1
            stated += area.stated is not None
            agreeing += area.agrees is True
            deviation = _deviation(area)
            if deviation > worst.get("largest_deviation", 0.0):
                worst = {
                    "largest_deviation": deviation,
                    "annotation_id": area.annotation_id,
                    "file_name": file_name,
                }
    return AreaCertificate(annotations=annotations, stated=stated, agreeing=agreeing, **worst)


def _deviation(area: AnnotationArea) -> float:
    if area.stated is None or area.stated == area.rasterised:
        return 0.0
    return abs(area.rasterised - area.stated) / max(area.rasterised, area.stated)
