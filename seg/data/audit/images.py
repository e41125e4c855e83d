"""Images: how their files store them, and what the conversion had to make of them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from seg.data.audit import pictures
from seg.data.audit.context import Context, Row
from seg.data.audit.finding import Exhibit, Finding, Table, counted
from seg.data.audit.headers import Header
from seg.data.coco import HARMLESS

_EXAMPLES = 4
_BLOCK = 64  # records in memory at once


def images(context: Context) -> Iterator[Finding]:
    """Everything that can be said about the image files."""
    yield from _left_out(context)
    yield from _pixels(context)
    yield from _sizes(context)
    yield from _headers(context)


def _left_out(context: Context) -> Iterator[Finding]:
    by_rule: dict[str, list[dict[str, object]]] = defaultdict(list)
    for problem in context.manifest.left_out:
        if problem["rule"] not in HARMLESS:
            by_rule[problem["rule"]].append(problem)
    for rule, problems in by_rule.items():
        yield Finding(
            rule=f"left_out_{rule}",
            severity="error",
            count=len(problems),
            title=f"{counted(len(problems), 'broken entry')} ({rule.replace('_', ' ')}), left out of the dataset",
            meaning="What is not converted is neither trained on nor scored: the scores are of the other images.",
            remedy="Repair the files or the entries named here and convert again.",
            examples=tuple(
                Exhibit(caption=f"{problem['file']}: {problem['message']}") for problem in problems[:_EXAMPLES]
            ),
        )


def _pixels(context: Context) -> Iterator[Finding]:
    grey, blank, total = [], [], 0
    for split, rows in context.rows.items():
        records = context.manifest.records(split)
        for start in range(0, len(rows), _BLOCK):
            block = np.asarray(records[start : start + _BLOCK, ..., :3])
            same = (block == block[..., :1]).all(axis=(1, 2, 3))
            flat = block.reshape(len(block), -1)
            even = flat.min(axis=1) == flat.max(axis=1)
            found = rows[start : start + _BLOCK]
            grey += [row for row, is_grey in zip(found, same & ~even, strict=True) if is_grey]
            blank += [row for row, is_even in zip(found, even, strict=True) if is_even]
            total += len(block)
    if blank:
        yield Finding(
            rule="blank_images",
            severity="warning",
            count=len(blank),
            title=f"{counted(len(blank), 'image')} of one single colour",
            meaning="There is nothing to learn from or to find in them.",
            remedy="Leave them out of the export.",
            examples=_exhibits(context, blank),
        )
    stored = [row for row in grey if context.headers[row.example.file_name].channels >= 3]
    if stored:
        yield Finding(
            rule="grey_as_colour",
            severity="info",
            count=len(stored),
            title=f"{'All ' if len(stored) == total else ''}{counted(len(stored), 'image')} "
            f"{'is' if len(stored) == 1 else 'are'} grey, stored as colour",
            meaning="Red, green and blue are equal in every pixel: three channels carry the information of one.",
            remedy="Nothing: models take RGB here. Colour augmentation would be pointless on them.",
            examples=_exhibits(context, stored[:2]),
        )


def _sizes(context: Context) -> Iterator[Finding]:
    sizes = Counter((row.example.width, row.example.height) for rows in context.rows.values() for row in rows)
    if len(sizes) < 2:
        return
    ratios = [width / height for width, height in sizes]
    squashed = max(ratios) > 1.02 * min(ratios)
    yield Finding(
        rule="mixed_sizes",
        severity="info",
        count=len(sizes),
        title=f"{len(sizes):,} different image sizes{', of different shapes' if squashed else ''}",
        meaning="All are resized to one square; "
        + ("those of other shapes are stretched by different factors." if squashed else "they keep their shape."),
        remedy="Nothing, unless shape matters for what is to be found; then pad the images before exporting them.",
        table=Table(
            columns=("width × height", "images"),
            rows=tuple((f"{width} × {height}", f"{count:,}") for (width, height), count in sizes.most_common(12)),
        ),
    )


def _headers(context: Context) -> Iterator[Finding]:
    checks: tuple[tuple[str, str, Callable[[Header], bool], str, str, str], ...] = (
        (
            "exif_rotation",
            "info" if context.manifest.settings.get("exif") == "rotate" else "warning",
            lambda header: header.orientation != 1,
            "with an EXIF rotation",
            "Viewers turn them, decoders for training often do not. Here they are "
            + (
                "turned as EXIF asks."
                if context.manifest.settings.get("exif") == "rotate"
                else "kept as stored: EXIF is ignored."
            ),
            "Look whether the mask lies on its object in the pictures here; if not, the annotations were drawn on the "
            "turned image.",
        ),
        (
            "sixteen_bit",
            "warning",
            lambda header: header.bits > 8,
            "with more than 8 bits per channel",
            "They are scaled to 8 bits over their whole range; if they use a small part of it, they come out dark and "
            "coarse.",
            "Choose the window of values yourself and export 8 bits.",
        ),
        (
            "alpha",
            "warning",
            lambda header: header.alpha,
            "with an alpha channel",
            "Transparency is dropped and the stored colours count, also under transparent pixels, where tools leave "
            "anything.",
            "Flatten them onto a background before exporting.",
        ),
        (
            "palette",
            "info",
            lambda header: header.palette or header.bits in (1, 2, 4),
            "with a palette or fewer than 8 bits",
            "They are expanded to RGB. Masks are often stored like this, photographs seldom.",
            "Make sure that these are images and not masks.",
        ),
        (
            "cmyk",
            "warning",
            lambda header: header.format == "JPEG" and header.channels == 4,
            "in CMYK",
            "The decoder converts them without their colour profile; colours shift.",
            "Convert them to RGB with the tool that made them.",
        ),
    )
    for rule, severity, concerns, what, meaning, remedy in checks:
        rows = [
            row for rows in context.rows.values() for row in rows if concerns(context.headers[row.example.file_name])
        ]
        if rows:
            yield Finding(
                rule=rule,
                severity=severity,
                count=len(rows),
                title=f"{counted(len(rows), 'image')} {what}",
                meaning=meaning,
                remedy=remedy,
                examples=_exhibits(context, rows),
            )


def _exhibits(context: Context, rows: list[Row]) -> tuple[Exhibit, ...]:
    return tuple(
        Exhibit(caption=row.example.file_name, picture=pictures.example(context, row)) for row in rows[:_EXAMPLES]
    )
