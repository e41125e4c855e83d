"""Numbers: how classes and sizes are spread over the splits, and what image_size allows at best."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from seg.data.audit.context import Context, Row
from seg.data.audit.finding import Bars, Finding, Table
from seg.data.images import resize_mask, resize_probability
from seg.data.manifest import IGNORE
from seg.data.masks import region

_SAMPLE = 300  # images whose ceiling is computed
_LOW_CEILING = 0.95
_UNLIKE = 1.5  # factor between the splits' medians from which they count as differently drawn


def numbers(context: Context) -> Iterator[Finding]:
    """Class balance, object sizes and the resolution ceiling."""
    yield _classes(context)
    yield from _object_sizes(context)
    yield from _ceiling(context)


def _classes(context: Context) -> Finding:
    names = {
        (source, category.id): category.name for source, file in context.files.items() for category in file.categories
    }
    counts: dict[str, Counter[str]] = {split: Counter() for split in context.manifest.splits}
    for labelled in context.labelled:
        row = context.by_file_name.get(labelled.file_name)
        if row is not None:
            counts[row.split][names[labelled.source, labelled.annotation.category_id]] += 1
    categories = sorted(set().union(*counts.values()))
    splits = context.manifest.splits
    shares = [{name: count[name] / max(1, count.total()) for name in categories} for count in counts.values() if count]
    apart = max(
        (max(share[name] for share in shares) - min(share[name] for share in shares) for name in categories), default=0
    )
    return Finding(
        rule="class_balance",
        severity="warning" if apart > 0.25 else "info",
        count=len(categories),
        title="Class balance per split: "
        + ("the splits differ" if apart > 0.25 else "the splits are alike")
        + f", at most {apart:.0%} of the annotations apart",
        meaning="Foreground is one class here, the union of the categories in use. Where the splits differ in their "
        "mixture, scores on one say little about another.",
        remedy="Convert with split=grouped, which stratifies." if apart > 0.25 else "Nothing.",
        table=Table(
            columns=(
                "split",
                "images",
                "without foreground",
                "foreground pixels",
                *(f"“{name}”" for name in categories),
            ),
            rows=tuple(
                (
                    split,
                    f"{summary.examples:,}",
                    f"{summary.empty:,}",
                    f"{summary.foreground:.2%}",
                    *(
                        f"{counts[split][name]:,} ({counts[split][name] / max(1, counts[split].total()):.0%})"
                        for name in categories
                    ),
                )
                for split, summary in splits.items()
            ),
        ),
    )


def _object_sizes(context: Context) -> Iterator[Finding]:
    shares: dict[str, list[float]] = {split: [] for split in context.manifest.splits}
    for labelled in context.labelled:
        row = context.by_file_name.get(labelled.file_name)
        if row is not None and labelled.area:
            shares[row.split].append(labelled.area / (labelled.image.height * labelled.image.width))
    known = {split: np.array(found) for split, found in shares.items() if found}
    if not known:
        return
    medians = [float(np.median(found)) for found in known.values()]
    differ = max(medians) > _UNLIKE * min(medians)
    yield Finding(
        rule="object_sizes",
        severity="warning" if differ else "info",
        count=sum(len(found) for found in known.values()),
        title=f"Object sizes per split: medians from {min(medians):.2%} to {max(medians):.2%} of the image",
        meaning="Small objects are harder, and Dice punishes each wrong pixel of them more."
        + (" The splits hold objects of different sizes: their scores are not comparable." if differ else ""),
        remedy="Convert with split=grouped, which stratifies by object size." if differ else "Nothing.",
        table=Table(
            columns=("split", "objects", "smallest", "10 %", "median", "90 %", "largest"),
            rows=tuple(
                (
                    split,
                    f"{len(found):,}",
                    *(f"{quantile:.3%}" for quantile in np.quantile(found, [0, 0.1, 0.5, 0.9, 1])),
                )
                for split, found in known.items()
            ),
        ),
    )


def _ceiling(context: Context) -> Iterator[Finding]:
    rows = [row for split, rows in context.rows.items() if split != "train" for row in rows]
    sample = rows[:: -(-len(rows) // _SAMPLE)]
    sizes = [context.manifest.image_size * factor for factor in (1, 2, 4)]
    longest = max(max(row.example.height, row.example.width) for row in sample)
    sizes = sizes[:1] + [size for size in sizes[1:] if size < 2 * longest]
    dice = np.array([found for row in sample if (found := _round_trips(row, sizes)) is not None])
    if not len(dice):
        return
    means = dice.mean(axis=0)
    worst = np.quantile(dice, 0.05, axis=0)
    low = means[0] < _LOW_CEILING
    enough = next((size for size, mean in zip(sizes, means, strict=True) if mean >= _LOW_CEILING), sizes[-1])
    yield Finding(
        rule="resolution_ceiling",
        severity="warning" if low else "info",
        count=len(dice),
        title=f"Resolution ceiling: at {sizes[0]}×{sizes[0]} no model exceeds Dice {means[0]:.3f} at the own size",
        meaning="The true mask itself, shrunk to image_size and back, reaches that and no more "
        f"(mean over {len(dice):,} validation and test images with foreground). Whatever is thinner than a pixel of "
        "the training size is lost.",
        remedy=(
            f"Use image_size={enough}." if low and len(sizes) > 1 else "Nothing: a larger image_size gains little."
        ),
        bars=Bars(
            unit="Dice", values=tuple((f"{size}×{size}", float(mean)) for size, mean in zip(sizes, means, strict=True))
        ),
        table=Table(
            columns=("image_size", "mean", "worst 5 % below"),
            rows=tuple(
                (str(size), f"{mean:.4f}", f"{bad:.4f}") for size, mean, bad in zip(sizes, means, worst, strict=True)
            ),
        ),
    )


def _round_trips(row: Row, sizes: list[int]) -> list[float] | None:
    """Dice of the own-size mask against itself after each size and back; None where there is no foreground."""
    height, width = row.example.height, row.example.width
    mask = region(row.example.mask, height, width)
    if not mask.any():
        return None
    if row.example.ignore is not None:
        mask[region(row.example.ignore, height, width) == 1] = IGNORE
    true, known = mask == 1, mask != IGNORE
    scores = []
    for size in sizes:
        small = (resize_mask(mask, size, size) == 1).astype(np.float32)
        back = (resize_probability(small, height, width) >= 0.5) & known
        size_sum = np.count_nonzero(back) + np.count_nonzero(true)
        scores.append(2 * int(np.count_nonzero(back & true)) / int(size_sum))
    return scores
