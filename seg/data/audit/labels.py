"""Labels: what the annotations outline, and where they are wrong, missing or misleading."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from seg.data.audit import pictures
from seg.data.audit.context import Context, Labelled
from seg.data.audit.finding import Exhibit, Finding, counted
from seg.data.audit.overlapping import overlapping
from seg.data.certificate import TOLERANCE, compare_areas
from seg.data.images import resize_mask
from seg.data.manifest import Manifest
from seg.data.masks import rasterise, region
from seg.data.segmentation import Polygons

_EXAMPLES = 6
_MOST = 0.95  # share from which "boxes" is a property of the dataset
_STRAY_OF_LARGEST, _STRAY_OF_IMAGE = 0.02, 0.0005  # areas


def labels(context: Context) -> Iterator[Finding]:
    """Everything that can be said about the outlines."""
    for check in (
        _no_foreground,
        _boxes,
        _unlabelled,
        _stray,
        _degenerate,
        _vanishing,
        _area,
        _overlaps,
        _crowds,
    ):
        yield from check(context)


def splits_without_foreground(manifest: Manifest) -> list[str]:
    """The splits in which no record has a pixel of foreground."""
    return [name for name, summary in manifest.splits.items() if summary.empty == summary.examples]


def _no_foreground(context: Context) -> Iterator[Finding]:
    empty = splits_without_foreground(context.manifest)
    if empty:
        count = sum(context.manifest.splits[split].examples for split in empty)
        yield Finding(
            rule="no_foreground",
            severity="error",
            count=count,
            title=f"No image of {', '.join(empty)} has foreground ({counted(count, 'image')})",
            meaning="Nothing can be learned there, and an empty mask scores as well as can be.",
            remedy="Export the annotations too, and see that `categories` names those that count and that image_size "
            "leaves something of them.",
        )


def _boxes(context: Context) -> Iterator[Finding]:
    outlined = [labelled for labelled in context.labelled if labelled.area]
    boxes = [labelled for labelled in outlined if _is_box(labelled)]
    if len(boxes) < max(1, _MOST * len(outlined)):
        return
    how_many = f"All {len(boxes):,}" if len(boxes) == len(outlined) else f"{len(boxes):,} of {len(outlined):,}"
    yield Finding(
        rule="boxes",
        severity="warning",
        count=len(boxes),
        title=f"{how_many} annotations are axis-aligned rectangles",
        meaning="The masks are bounding boxes, not outlines. A model learns to draw boxes, and a perfect outline of a "
        "round object scores only about 0.88 against its box.",
        remedy="Say so beside every score, or outline the objects. Nothing in training repairs this.",
        examples=_exhibits(context, boxes[:: max(1, len(boxes) // _EXAMPLES)], _size),
    )


def _is_box(labelled: Labelled) -> bool:
    """Whether a polygon has four corners on two columns and two rows; whether run lengths fill their box."""
    segmentation = labelled.annotation.segmentation
    if not isinstance(segmentation, Polygons):
        return labelled.area == labelled.box[2] * labelled.box[3]
    if len(segmentation.parts) != 1:
        return False
    part = segmentation.parts[0]
    corners = set(zip(part[::2], part[1::2], strict=True))
    return len(corners) == 4 and len({x for x, _ in corners}) == 2 and len({y for _, y in corners}) == 2


def _unlabelled(context: Context) -> Iterator[Finding]:
    covered = {labelled.file_name for labelled in context.labelled if labelled.area}
    rows = [row for rows in context.rows.values() for row in rows if row.example.file_name not in covered]
    total = sum(len(rows) for rows in context.rows.values())
    if not rows:
        return
    few = len(rows) <= 0.05 * total
    yield Finding(
        rule="unlabelled_images",
        severity="warning" if few else "info",
        count=len(rows),
        title=f"{counted(len(rows), 'image')} of {total:,} without annotation",
        meaning="They train and score as all background. "
        + ("So few may have been forgotten." if few else "So many are probably meant: images without an object."),
        remedy="Look at them: annotate what was forgotten, or keep them as images without an object.",
        examples=tuple(
            Exhibit(caption=row.example.file_name, picture=pictures.example(context, row)) for row in rows[:_EXAMPLES]
        ),
    )


def _stray(context: Context) -> Iterator[Finding]:
    stray = []
    for members in _by_image(context).values():
        largest = max(labelled.area for labelled in members)
        for labelled in members:
            small = labelled.area < _STRAY_OF_IMAGE * labelled.image.height * labelled.image.width
            if small and 0 < labelled.area < _STRAY_OF_LARGEST * largest:
                stray.append(labelled)
    if stray:
        yield Finding(
            rule="stray_annotations",
            severity="warning",
            count=len(stray),
            title=f"{counted(len(stray), 'stray annotation')}, tiny beside another one in the same image",
            meaning="Slips of the mouse look like this. In the mask they are specks that no model can find.",
            remedy="Look at them, and delete what marks nothing.",
            examples=_exhibits(context, stray, _size),
        )


def _degenerate(context: Context) -> Iterator[Finding]:
    nothing = [labelled for labelled in context.labelled if not labelled.area]
    if nothing:
        yield Finding(
            rule="degenerate_annotations",
            severity="warning",
            count=len(nothing),
            title=f"{counted(len(nothing), 'annotation')} without a single pixel",
            meaning="Empty, outside the image, or thinner than a pixel: they are in the file and not in the mask.",
            remedy="Delete or redraw them.",
            examples=_exhibits(context, nothing, _size),
        )


def _vanishing(context: Context) -> Iterator[Finding]:
    size = context.manifest.image_size
    lost = [labelled for labelled in context.labelled if labelled.area and _vanishes(labelled, size)]
    if lost:
        yield Finding(
            rule="vanishing_annotations",
            severity="warning",
            count=len(lost),
            title=f"{counted(len(lost), 'annotation')} without a pixel left at {size}×{size}",
            meaning="They are smaller than what one pixel of the training size can hold: no model sees them, and every "
            "score at the images' own size counts them as missed.",
            remedy="Use a larger image_size, or accept it and say so.",
            examples=_exhibits(context, lost, _size),
        )


def _vanishes(labelled: Labelled, size: int) -> bool:
    height, width = labelled.image.height, labelled.image.width
    if (
        labelled.box[2] * size >= 3 * width
        and labelled.box[3] * size >= 3 * height
        and labelled.area * 2 > (labelled.box[2] * labelled.box[3])
    ):
        return False  # filled so well, it covers half of some pixel of the training size
    counts = rasterise([labelled.annotation.segmentation], height, width)
    return counts is not None and not resize_mask(region(counts, height, width), size, size).any()


def _area(context: Context) -> Iterator[Finding]:
    stated = [labelled for labelled in context.labelled if labelled.annotation.area is not None]
    wrong = [labelled for labelled in stated if _disagrees(labelled)]
    if not wrong:
        return

    def caption(labelled: Labelled) -> str:
        return f"{_size(labelled)}; the file says {labelled.annotation.area:,.0f}"

    wrong.sort(key=lambda labelled: -abs(labelled.area - (labelled.annotation.area or 0)))
    yield Finding(
        rule="area_disagrees",
        severity="warning",
        count=len(wrong),
        title=f"{counted(len(wrong), 'annotation')} of {len(stated):,} whose stated area is not what they cover",
        meaning=f"The file's own area and the rasterised outline differ by more than {TOLERANCE}: outlines that cross "
        "themselves, holes that were lost, or an image that was resized after it was annotated.",
        remedy="Look at the examples; where the outline is wrong, export again.",
        examples=_exhibits(context, wrong, caption),
    )


def _disagrees(labelled: Labelled) -> bool:
    _, _, width, height = labelled.box
    annotation = labelled.annotation
    return compare_areas(annotation.id, labelled.area, width, height, annotation.area).agrees is False


def _overlaps(context: Context) -> Iterator[Finding]:
    twice: list[Labelled] = []
    touching: list[Labelled] = []
    for members in _by_image(context).values():
        shapes = [labelled for labelled in members if labelled.area and not labelled.annotation.crowd]
        same, others = overlapping(shapes)
        twice += same
        touching += others
    if twice:
        yield Finding(
            rule="drawn_twice",
            severity="warning",
            count=len(twice),
            title=f"{counted(len(twice), 'annotation')} drawn over another one of the same shape",
            meaning="The same object was annotated twice, or in two categories. The binary mask is the same; counts "
            "and class balance are not.",
            remedy="Delete one of each pair.",
            examples=_exhibits(context, twice, _size),
        )
    if touching:
        yield Finding(
            rule="overlaps",
            severity="info",
            count=len(touching),
            title=f"{counted(len(touching), 'annotation')} overlapping another one in the same image",
            meaning="The mask is the union: where objects overlap, nothing of the border between them is left.",
            remedy="Nothing, for one foreground class.",
            examples=_exhibits(context, touching, _size),
        )


def _crowds(context: Context) -> Iterator[Finding]:
    crowds = [labelled for labelled in context.labelled if labelled.annotation.crowd]
    if not crowds:
        return
    policy = context.manifest.settings.get("crowds", "ignore")
    everything = len(crowds) == len(context.labelled)
    yield Finding(
        rule="crowds",
        severity="warning" if everything else "info",
        count=len(crowds),
        title=f"{'Every annotation is a crowd region' if everything else counted(len(crowds), 'crowd region')}; "
        f"treated as {'ignored' if policy == 'ignore' else 'foreground'}",
        meaning="Crowd regions outline what nobody separated into objects. "
        + (
            "Neither loss nor score sees the pixels there."
            if policy == "ignore"
            else "Brush tools export every mask like this, so here they are the masks themselves."
        ),
        remedy="Nothing, if that is what you mean.",
        examples=_exhibits(context, crowds, _size),
    )


def _by_image(context: Context) -> dict[str, list[Labelled]]:
    members: dict[str, list[Labelled]] = defaultdict(list)
    for labelled in context.labelled:
        members[labelled.file_name].append(labelled)
    return members


def _size(labelled: Labelled) -> str:
    return f"{labelled.box[2]}×{labelled.box[3]} pixels, area {labelled.area:,}"


def _exhibits(context: Context, found: Iterable[Labelled], describe: Callable[[Labelled], str]) -> tuple[Exhibit, ...]:
    return tuple(
        Exhibit(
            caption=f"{labelled.file_name}, annotation {labelled.annotation.id}: {describe(labelled)}",
            picture=pictures.pointed_at(context, labelled),
        )
        for labelled in list(found)[:_EXAMPLES]
    )
