"""Masks from annotations, rasterised by pycocotools alone: two rasterisers never agree on the same polygon.

Foreground is the union of the annotations of the used categories. Crowd regions outline what nobody separated into
objects; by default they are ignored (no loss, no score there). A region that is both crowd and object is foreground.
Where objects of several classes overlap, the smaller one wins: what lies on top, such as a core in its surroundings, is
smaller than what it lies on.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as pycoco

from seg.data.coco import Annotation, Category
from seg.data.images import IGNORE, Box
from seg.data.manifest import Example
from seg.data.segmentation import BrokenRule, Polygons, RunLengths, listed, shown
from seg.errors import UserError

CROWDS = ("ignore", "foreground")
OVERLAPS = ("union", "refuse")


def used_categories(categories: Iterable[Category], wanted: str) -> set[str]:
    """The names of the categories whose annotations are foreground.

    Args:
        categories: of the export.
        wanted: `all`, or names separated by commas.

    Raises:
        UserError: if a name does not exist.
    """
    known = {category.name for category in categories}
    if wanted == "all":
        return known
    names = {name.strip() for name in wanted.split(",")}
    for name in sorted(names - known):
        raise UserError(f"categories must be 'all' or known names, got {shown(name)}; known: {listed(known)}.")
    return names


def rasterise(segmentations: Iterable[Polygons | RunLengths], height: int, width: int) -> bytes | None:
    """The union of checked segmentations as compressed COCO run lengths; None where there are none."""
    regions: list[bytes] = []
    for segmentation in segmentations:
        if isinstance(segmentation, Polygons):
            if segmentation.parts:
                parts = pycoco.frPyObjects([list(part) for part in segmentation.parts], height, width)
                regions += [part["counts"] for part in parts]
        elif isinstance(segmentation.counts, str):
            regions.append(segmentation.counts.encode("ascii"))
        else:
            whole = {"size": [height, width], "counts": list(segmentation.counts)}
            regions.append(pycoco.frPyObjects(whole, height, width)["counts"])
    return _union(regions, height, width)


def _union(regions: Sequence[bytes], height: int, width: int) -> bytes | None:
    if len(regions) < 2:
        return regions[0] if regions else None
    return pycoco.merge([{"size": [height, width], "counts": counts} for counts in regions])["counts"]


def region(counts: bytes | str, height: int, width: int) -> np.ndarray:
    """Compressed run lengths as a mask of 0 and 1, shape (height, width), uint8."""
    # The same as pycocotools' decode, which writes pixel by pixel, in a fifth of the time.
    counts = counts.encode("ascii") if isinstance(counts, str) else counts
    area, (left, top, box_width, box_height) = extent(counts, height, width)
    if area == box_width * box_height:  # a rectangle, as many annotations are, or nothing
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + box_height, left : left + box_width] = 1
        return mask
    runs = _runs(counts)
    pixels = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs)
    return pixels.reshape(width, height).T


def _runs(counts: bytes) -> np.ndarray:
    """The lengths of the runs, of background and foreground in turn, int64.

    Each is stored in characters of 5 bits, the lowest first, a sixth bit saying that more follow; the highest bit of
    the last is the sign. From the fourth on, what is stored is the difference to the length two before.
    """
    characters = np.frombuffer(counts, np.uint8) - np.uint8(48)
    last = np.flatnonzero(characters < 32)
    first = np.concatenate(([0], last[:-1] + 1))
    place = np.arange(len(characters)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((characters & 31).astype(np.int64) << 5 * place, first) if len(first) else first
    values[(characters[last] & 16) != 0] -= 1 << 5 * (place[last] + 1)[(characters[last] & 16) != 0]
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def run_lengths(mask: np.ndarray) -> str:
    """A mask as compressed run lengths: shape (height, width), what is not 0 is foreground."""
    return pycoco.encode(np.asfortranarray(mask != 0).view(np.uint8))["counts"].decode("ascii")


def own_mask(example: Example) -> np.ndarray:
    """The mask of a converted image at its own size, shape (height, width), uint8: as a record has it."""
    size = example.height, example.width
    mask = region(example.mask, *size)
    for label, counts in enumerate(example.classes, start=1):
        mask[region(counts, *size) == 1] = label
    if example.ignore is not None:
        mask[region(example.ignore, *size) == 1] = IGNORE
    return mask


def measure(segmentation: Polygons | RunLengths, height: int, width: int) -> tuple[int, Box]:
    """The rasterised area in pixels, and its box as left, top, width, height; all 0 where it covers nothing."""
    return extent(rasterise([segmentation], height, width), height, width)


def extent(counts: bytes | None, height: int, width: int) -> tuple[int, Box]:
    """The area and the box of compressed run lengths, as `measure` has them."""
    if counts is None:
        return 0, (0, 0, 0, 0)
    encoded = {"size": [height, width], "counts": counts}
    left, top, box_width, box_height = (int(number) for number in pycoco.toBbox(encoded))
    return int(pycoco.area(encoded)), (left, top, box_width, box_height)


def around(boxes: Iterable[Box]) -> Box:
    """The box around what several enclose."""
    filled = [box for box in boxes if box[2]]
    if not filled:
        return 0, 0, 0, 0
    left, top = min(box[0] for box in filled), min(box[1] for box in filled)
    return left, top, max(box[0] + box[2] for box in filled) - left, max(box[1] + box[3] for box in filled) - top


def refuse_overlaps(annotations: Iterable[Annotation], height: int, width: int, *, crowds: str) -> None:
    """Checks that no two objects of an image share a pixel; ignored crowds are no objects.

    Raises:
        BrokenRule: if two do; names them.
    """
    taken = np.zeros((height, width), bool)
    earlier: list[tuple[int, bytes]] = []
    for annotation in annotations:
        if annotation.crowd and crowds == "ignore":
            continue
        counts = rasterise([annotation.segmentation], height, width)
        if counts is None:
            continue
        pixels = region(counts, height, width) == 1
        if (pixels & taken).any():
            shared = ((other, int((pixels & (region(area, height, width) == 1)).sum())) for other, area in earlier)
            other, number = next(pair for pair in shared if pair[1])
            raise BrokenRule(
                "overlap",
                f"annotations {other} and {annotation.id} must not overlap, and share {number} pixels; "
                "separate them, or use overlaps=union",
            )
        taken |= pixels
        earlier.append((annotation.id, counts))


def _paint(mask: np.ndarray, objects: Iterable[tuple[bytes | None, int]]) -> None:
    """Gives each pixel of a mask the class of its smallest object; of equally large ones, the later class."""
    painted = []
    for counts, label in objects:
        if counts is not None:
            painted.append((-int(pycoco.area({"size": list(mask.shape), "counts": counts})), label, counts))
    for _, label, counts in sorted(painted, key=lambda one: one[:2]):
        mask[region(counts, *mask.shape) == 1] = label


def rasterise_each(annotations: Iterable[Annotation], height: int, width: int) -> tuple[bytes | None, ...]:
    """What each annotation covers, as compressed run lengths; None where it covers nothing."""
    return tuple(rasterise([annotation.segmentation], height, width) for annotation in annotations)


def example_mask(
    annotations: Sequence[Annotation],
    height: int,
    width: int,
    *,
    crowds: str,
    labels: Sequence[int] = (),
    objects: Sequence[bytes | None] | None = None,
) -> tuple[np.ndarray, str, str | None]:
    """The mask of one image at its own size.

    Args:
        annotations: those of the used categories.
        height, width: the image's size in pixels.
        crowds: what crowd regions are: `ignore` or `foreground`.
        labels: the class of each annotation, from 1; empty: there is one class alone.
        objects: what `rasterise_each` says of the annotations; None: it is asked.

    Returns:
        The mask, shape (height, width), uint8, of 0, the classes and 255 (ignored); and the compressed run lengths of
        its foreground and of what is ignored (None where nothing is).
    """
    objects = rasterise_each(annotations, height, width) if objects is None else objects
    hidden = [annotation.crowd and crowds == "ignore" for annotation in annotations]
    counts = _union([each for each, crowd in zip(objects, hidden, strict=True) if each and not crowd], height, width)
    mask = np.zeros((height, width), np.uint8) if counts is None else region(counts, height, width)
    foreground = run_lengths(mask) if counts is None else counts.decode("ascii")
    if labels:
        _paint(mask, [pair[:2] for pair in zip(objects, labels, hidden, strict=True) if not pair[2]])
    ignored = _union([each for each, crowd in zip(objects, hidden, strict=True) if each and crowd], height, width)
    if ignored is not None:
        mask[(region(ignored, height, width) == 1) & (mask == 0)] = IGNORE
    return mask, foreground, None if ignored is None else run_lengths(mask == IGNORE)
