"""Bookkeeping: categories, ids and order in the annotation files."""

from collections import Counter
from collections.abc import Iterator

from seg.data.audit.context import Context
from seg.data.audit.finding import Exhibit, Finding, Table, counted
from seg.data.coco import Problem
from seg.data.segmentation import listed

_EXAMPLES = 6


def bookkeeping(context: Context) -> Iterator[Finding]:
    """Everything that can be said about the annotation files without looking at an outline."""
    yield from _empty_categories(context)
    yield from _order(context)
    yield from _repeated_ids(context)
    yield from _unknown_images(context)
    yield from _areas_that_are_none(context)


def _empty_categories(context: Context) -> Iterator[Finding]:
    categories = context.manifest.categories
    empty = [category for category in categories if not category["annotations"]]
    if not empty:
        return
    names = listed((category["name"] for category in empty), quoted=True)
    yield Finding(
        rule="empty_categories",
        severity="warning",
        count=len(empty),
        title=f"{counted(len(empty), 'category')} without annotations: {names}",
        meaning="Often a super-category that the exporter lists like a class. Training on it alone would empty every "
        "mask.",
        remedy="Leave it out of `categories`; the foreground here is the union of those marked as used.",
        table=Table(
            columns=("id", "category", "annotations", "foreground"),
            rows=tuple(
                (
                    str(category["id"]),
                    category["name"],
                    f"{category['annotations']:,}",
                    "yes" if category["used"] else "no",
                )
                for category in categories
            ),
        ),
    )


def _order(context: Context) -> Iterator[Finding]:
    pairs = {
        source: [
            (image, annotation.image_id)
            for image, annotation in zip(file.images, file.annotations, strict=False)
            if image.id != annotation.image_id
        ]
        for source, file in context.files.items()
    }
    wrong = {source: found for source, found in pairs.items() if found}
    if not wrong:
        return
    told = ", ".join(
        f"{len(found):,} of {len(context.files[source].images):,} in {source}" for source, found in wrong.items()
    )
    examples = []
    for source, found in wrong.items():
        names = {image.id: image.file_name for image in context.files[source].images}
        image, other = found[0]
        examples.append(Exhibit(caption=f"{source}: {image.file_name} would get the mask of {names[other]}"))
    yield Finding(
        rule="annotation_order",
        severity="info",
        count=sum(len(found) for found in wrong.values()),
        title=f"Annotations stand in another order than images: pairing them by position mispairs {told}",
        meaning="Code that takes images[k] with annotations[k] trains on wrong masks without an error. Here they are "
        "paired by image_id.",
        remedy="Nothing here; beware of other code and of numbers it reported.",
        examples=tuple(examples),
    )


def _repeated_ids(context: Context) -> Iterator[Finding]:
    counts = Counter(image.id for file in context.files.values() for image in file.images)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        yield Finding(
            rule="ids_restart",
            severity="info",
            count=len(repeated),
            title=f"Image ids restart in each split: {len(repeated):,} ids stand for more than one image",
            meaning="An id alone does not name an image. Merging the annotation files by id mixes their masks up.",
            remedy="Nothing here: images are known by split and id. Renumber them before merging the files.",
            table=Table(
                columns=("split", "images", "smallest id", "largest id"),
                rows=tuple(
                    (
                        source,
                        f"{len(file.images):,}",
                        str(min(image.id for image in file.images)),
                        str(max(image.id for image in file.images)),
                    )
                    for source, file in context.files.items()
                ),
            ),
        )


def _unknown_images(context: Context) -> Iterator[Finding]:
    found = _problems(context, "unknown_image")
    if found:
        yield Finding(
            rule="unknown_images",
            severity="warning",
            count=len(found),
            title=f"{counted(len(found), 'annotation')} for images that are not in the file",
            meaning="Their images were deleted or renumbered; if renumbered, other masks may be wrong too.",
            remedy="Export again; if images were removed on purpose, remove their annotations.",
            examples=tuple(Exhibit(caption=str(problem)) for problem in found[:_EXAMPLES]),
        )


def _areas_that_are_none(context: Context) -> Iterator[Finding]:
    found = _problems(context, "area_type")
    if found:
        yield Finding(
            rule="area_no_number",
            severity="info",
            count=len(found),
            title=f"{counted(len(found), 'annotation')} whose stated area is no number of pixels",
            meaning="What the outline covers counts here; it cannot be compared with what the file says.",
            remedy="Nothing here; other tools sort objects by this number.",
            examples=tuple(Exhibit(caption=str(problem)) for problem in found[:_EXAMPLES]),
        )


def _problems(context: Context, rule: str) -> list[Problem]:
    return [problem for file in context.files.values() for problem in file.problems if problem.rule == rule]
