"""The rules that a `segmentation` must keep before pycocotools may rasterise it, in plain Python.

pycocotools trusts its input: it crashes the process on NaN or on a huge size, returns uninitialised memory for run
lengths that end early, drops the last number of an odd list and takes four numbers for a box.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# pycocotools allocates memory in proportion to the length of an outline, whatever the image's size.
MAX_OUTLINE = 4_000_000  # pixels, of one polygon
_MAX_CHARACTERS = 7  # of five bits each, for one 32-bit run


class BrokenRule(Exception):
    """The name of a rule, and a message that says how it was broken."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(rule, message)
        self.rule = rule
        self.message = message


@dataclass(frozen=True)
class Polygons:
    """Outlines x1, y1, x2, y2, … in pixels; the region is their union. No parts: an empty segmentation."""

    parts: tuple[tuple[float, ...], ...]

    @cached_property
    def outlines(self) -> tuple[float, ...]:
        """The length of each outline as rasterising pays for it: the longer side of each edge, summed, in pixels."""
        return tuple(map(_outline, self.parts))


@dataclass(frozen=True)
class RunLengths:
    """Lengths of runs of background and foreground in turn, down the columns; they fill the image exactly.

    Attributes:
        counts: COCO's compressed string where it came like that, else the lengths; no run but the first is empty.
    """

    counts: str | tuple[int, ...]


def most_outline(height: int, width: int) -> int:
    """How long the outlines of all polygons of one image may be together, in pixels; so may those of one annotation.

    Half the image's pixels: as much as if it were tiled by cells of 8×8 pixels, each with an outline of its own; and as
    much as the longest polygon beside, for what is drawn over it. pycocotools rasterises 25 pixels of outline in a
    microsecond, so the largest image (64 Mi pixels) takes 1.5 s.
    """
    return MAX_OUTLINE + height * width // 2


def check_segmentation(value: Any, height: int, width: int) -> Polygons | RunLengths:
    """Checks one annotation's segmentation against its image's size in pixels.

    Raises:
        BrokenRule: naming the first rule that is broken.
    """
    if isinstance(value, list):
        polygons = Polygons(tuple(_check_polygon(part, height, width) for part in value))
        if max(polygons.outlines, default=0) > MAX_OUTLINE:
            raise BrokenRule("outline_too_long", f"a polygon's outline must be at most {MAX_OUTLINE} pixels long")
        if (length := outline_length(polygons)) > (most := most_outline(height, width)):
            raise BrokenRule(
                "outline_too_long",
                f"the outlines of an annotation of a {width}×{height} image must be at most {most} pixels long "
                f"together, got {length:.0f}",
            )
        return polygons
    if isinstance(value, dict):
        return _check_run_lengths(value, height, width)
    raise BrokenRule("segmentation_type", f"segmentation must be a list of polygons or an RLE, got {shown(value)}")


def outline_length(segmentation: Polygons | RunLengths) -> float:
    """The outlines of all polygons together, in pixels; 0 for run lengths."""
    return sum(segmentation.outlines) if isinstance(segmentation, Polygons) else 0.0


def shown(value: Any) -> str:
    """A value from outside, short enough for a message."""
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 10**1000:  # Python refuses to write thousands of digits
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def printable(text: str, most: int = 255) -> str:
    """A text from outside as it is; quoted and cut off where it would break a line or an encoding, or is long."""
    return text if text.isprintable() and len(text) <= most else shown(text)


def listed(names: Iterable[str], *, quoted: bool = False) -> str:
    """Names from outside, in order, the first 20 of them; all quoted, or those that cannot be printed as they are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 20} more" if len(ordered) > 20 else ""
    return ", ".join(shown(name) if quoted else printable(name, 60) for name in ordered[:20]) + more


def _check_polygon(part: Any, height: int, width: int) -> tuple[float, ...]:
    if not isinstance(part, list):
        raise BrokenRule("polygon_type", f"a polygon must be a list of numbers, got {shown(part)}")
    low, high = -max(height, width), 2 * max(height, width)
    for number in part:
        if type(number) not in (int, float) or not low <= number <= high:
            raise _strange_coordinate(number, height, width)
    if len(part) % 2:
        raise BrokenRule("odd_coordinates", f"a polygon must hold x and y in turn, got {len(part)} numbers")
    if len(part) < 6:
        raise BrokenRule("too_few_points", f"a polygon must have at least 3 points, got {len(part) // 2}")
    return tuple(map(float, part))


def _strange_coordinate(number: Any, height: int, width: int) -> BrokenRule:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return BrokenRule("coordinate_type", f"a coordinate must be a number, got {shown(number)}")
    if isinstance(number, float) and not math.isfinite(number):
        return BrokenRule("coordinate_not_finite", f"a coordinate must be finite, got {number}")
    low, high = -max(height, width), 2 * max(height, width)
    return BrokenRule(
        "coordinate_too_large",
        f"a coordinate must lie within one image side of the {width}×{height} image "
        f"({low} to {high}), got {shown(number)}",
    )


def _outline(polygon: tuple[float, ...]) -> float:
    xs, ys = polygon[::2], polygon[1::2]
    pairs = zip(xs, xs[1:] + xs[:1], ys, ys[1:] + ys[:1], strict=True)
    return sum(max(abs(x2 - x1), abs(y2 - y1)) for x1, x2, y1, y2 in pairs)


def _check_run_lengths(value: dict[str, Any], height: int, width: int) -> RunLengths:
    for key in ("size", "counts"):
        if key not in value:
            raise BrokenRule("rle_missing_key", f"an RLE must have '{key}'")
    size = value["size"]
    if not isinstance(size, list) or any(type(number) is not int for number in size) or len(size) != 2:
        raise BrokenRule("rle_size_type", f"an RLE's size must be two integers, got {shown(size)}")
    if size != [height, width]:
        raise BrokenRule(
            "rle_other_size",
            f"an RLE's size must be its image's [{height}, {width}], got [{shown(size[0])}, {shown(size[1])}]",
        )
    counts = value["counts"]
    if isinstance(counts, str):
        runs = decode_counts(counts)
    elif isinstance(counts, list):
        runs = counts
        if any(type(run) is not int for run in runs):
            raise BrokenRule("rle_count_type", "an RLE's counts must be integers")
    else:
        raise BrokenRule("rle_count_type", f"an RLE's counts must be a string or a list, got {shown(counts)}")
    if any(run < 0 for run in runs):
        raise BrokenRule("rle_negative_count", f"an RLE's counts must not be negative, got {shown(min(runs))}")
    if (total := sum(runs)) != height * width:
        rule = "rle_too_short" if total < height * width else "rle_too_long"
        raise BrokenRule(rule, f"an RLE's counts must add up to {height * width} pixels, got {shown(total)}")
    if 0 in runs[1:]:
        # pycocotools merges regions wrongly where empty runs meet.
        return RunLengths(_without_empty_runs(runs))
    return RunLengths(counts if isinstance(counts, str) else tuple(runs))


def decode_counts(text: str) -> list[int]:
    """The run lengths in COCO's compressed string: five bits a character, from the third on relative to two before.

    Raises:
        BrokenRule: if the string ends within a number or holds a character that none of its numbers may.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise BrokenRule("rle_undecodable", f"compressed counts hold the character {shown(character)}")
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift >= 5 * _MAX_CHARACTERS:
                raise BrokenRule("rle_undecodable", "compressed counts hold a number of more than 32 bits")
            continue
        if code & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise BrokenRule("rle_undecodable", "compressed counts end within a number")
    return runs


def _without_empty_runs(runs: list[int]) -> tuple[int, ...]:
    kept = runs[:1]
    foreground = False  # of the last kept run
    for index, run in enumerate(runs[1:], 1):
        if run and (index % 2 == 1) == foreground:
            kept[-1] += run
        elif run:
            kept.append(run)
            foreground = not foreground
    return tuple(kept)
