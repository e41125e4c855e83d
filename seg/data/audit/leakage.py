"""Leakage: images of the scored splits that the training images give away."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from seg.data.audit import pictures
from seg.data.audit.context import Context, Row
from seg.data.audit.finding import Bars, Exhibit, Finding, counted
from seg.data.audit.given_groups import given_groups
from seg.data.baselines import baselines, nearest_strangers_dice
from seg.data.likeness import most_alike, same_texture, small_picture, stranger_likeness
from seg.data.series import place_in_series
from seg.data.splits import GAP

NEAR = 2  # numbers apart in a series
_EXAMPLES = 4
_BLOCK = 512  # rows of the likeness matrix in memory at once
_CANDIDATE = 0.97  # correlation of small pictures from which the detail is compared
_LOOKUP = 0.1  # Dice by which copying must beat the constant mask to be worth a word
_CHEAT = 0.2  # and to be an error
_STRANGERS = f"nearest_image_beyond_±{GAP}"  # copied with the neighbours in the series left out


def leakage(context: Context) -> Iterator[Finding]:
    """Copies, groups and series across splits, and the score of copying the nearest training mask."""
    found = [*_identical(context), *given_groups(context), *_series(context), *_near_identical(context)]
    yield from found
    yield _lookup(context, leaks=any(finding.severity == "error" for finding in found))


@dataclass(frozen=True)
class _Pair:
    row: Row
    train: Row
    likeness: float


def _identical(context: Context) -> Iterator[Finding]:
    splits: dict[str, list[Row]] = defaultdict(list)
    for rows in context.rows.values():
        for row in rows:
            splits[row.example.sha256].append(row)
    copies = [rows for rows in splits.values() if len({row.split for row in rows}) > 1]
    if copies:
        yield Finding(
            rule="identical_across_splits",
            severity="error",
            count=len(copies),
            title=f"{counted(len(copies), 'image')} in more than one split, byte for byte",
            meaning="A model that has memorised its training images scores on them without having learned anything.",
            remedy="Keep each image in one split: convert with split=grouped, or repair the export.",
            examples=tuple(
                Exhibit(
                    caption=" = ".join(row.example.file_name for row in rows),
                    picture=pictures.example(context, rows[0]),
                )
                for rows in copies[:_EXAMPLES]
            ),
        )
    again = [rows for rows in splits.values() if len(rows) > len({row.split for row in rows})]
    if again:
        yield Finding(
            rule="identical_within_split",
            severity="warning",
            count=len(again),
            title=f"{counted(len(again), 'image')} more than once in the same split, byte for byte",
            meaning="Such an image counts several times, in training and in the score; its masks may contradict each "
            "other.",
            remedy="Keep one of each.",
            examples=tuple(
                Exhibit(
                    caption=" = ".join(row.example.file_name for row in rows),
                    picture=pictures.side_by_side(*(pictures.example(context, row) for row in rows[:2])),
                )
                for rows in again[:_EXAMPLES]
            ),
        )


def _near_identical(context: Context) -> Iterator[Finding]:
    looked_at = lru_cache(maxsize=None)(lambda file_name: small_picture(context.path(file_name)))
    pairs = [pair for pair in map(partial(_copy, looked_at), _candidates(context)) if pair is not None]
    if pairs:
        pairs.sort(key=lambda pair: -pair.likeness)
        yield Finding(
            rule="near_identical_across_splits",
            severity="error" if len(pairs) > 0.01 * _scored(context) else "warning",
            count=len(pairs),
            title=f"{counted(len(pairs), 'validation or test image')} nearly identical to a training image",
            meaning="They agree in their finest detail: the same picture resized, recompressed or recoloured. Their "
            "scores measure memory.",
            remedy="Convert with split=grouped, which keeps images that look alike on one side.",
            examples=_exhibits(context, pairs),
        )


def _candidates(context: Context) -> Iterator[list[_Pair]]:
    """For each image of the other splits, the training images that look most alike, without its very file."""
    train = context.thumbnails["train"]
    for split in context.rows:
        if split == "train":
            continue
        for start in range(0, len(context.rows[split]), _BLOCK):
            likeness = context.thumbnails[split][start : start + _BLOCK] @ train.T
            for offset, column in enumerate(likeness):
                row = context.rows[split][start + offset]
                pairs = [
                    _Pair(row, context.rows["train"][other], float(column[other]))
                    for other in most_alike(column, _CANDIDATE)
                ]
                yield [pair for pair in pairs if pair.train.example.sha256 != row.example.sha256]


def _copy(picture: Callable[[str], np.ndarray | None], pairs: list[_Pair]) -> _Pair | None:
    """The first pair that is one picture twice; at a size of its own, because small records look alike sooner."""
    for pair in pairs:
        first, second = (picture(row.example.file_name) for row in (pair.row, pair.train))
        if first is not None and second is not None and same_texture(first, second):
            return pair
    return None


def _series(context: Context) -> Iterator[Finding]:
    series: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for rows in context.rows.values():
        for row in rows:
            place = place_in_series(row.name)
            if place is not None:
                series[place[0]].append((place[1], row))
    crossing = [
        sorted(members, key=lambda member: member[0])
        for members in series.values()
        if len({row.split for _, row in members}) > 1
    ]
    if not crossing:
        return
    near = [pair for members in crossing for pair in _neighbours(context, members)]
    if not near:
        return
    strangers = stranger_likeness(np.concatenate(list(context.thumbnails.values())))
    likeness = float(np.median([pair.likeness for pair in near]))
    alike = likeness > strangers + 0.25 * (1 - strangers)
    longest = max(crossing, key=len)
    share = len(near) / _scored(context)
    name = "one numbered series" if len(crossing) == 1 else f"{len(crossing):,} numbered series"
    numbers = f"{longest[0][0]} to {longest[-1][0]}"
    yield Finding(
        rule="series_across_splits",
        severity="error" if alike and share > 0.01 else "warning" if alike else "info",
        count=len(near),
        title=f"{name.capitalize()} shuffled into the splits: {share:.0%} of the validation and test images have a "
        f"training image within ±{NEAR} numbers",
        meaning=f"The file names count from {numbers} through all splits. Such neighbours correlate by "
        f"{likeness:.2f} (median), strangers by {strangers:.2f}: "
        + (
            "the training images show what is scored, like the slices of one patient or the frames of one video."
            if alike
            else "the numbers say little about the content here."
        ),
        remedy="Convert with split=grouped: contiguous blocks of a series stay on one side, with a gap between them."
        if alike
        else "Nothing, unless the numbers are those of slices, frames or patients.",
        examples=(
            Exhibit(
                caption=f"Every image of the longest series in the order of its numbers ({numbers}), "
                "line by line: train blue, val yellow, test red.",
                picture=pictures.series_strip([row.split for _, row in longest]),
            ),
            *_exhibits(context, near[:: -(-len(near) // _EXAMPLES)]),
        ),
    )


def _neighbours(context: Context, members: list[tuple[int, Row]]) -> Iterator[_Pair]:
    """The members outside train with the nearest training image of the series, if it is near."""
    train = [(number, row) for number, row in members if row.split == "train"]
    numbers = np.array([number for number, _ in train])
    if not train:
        return
    for number, row in members:
        if row.split == "train":
            continue
        right = int(np.searchsorted(numbers, number))
        closest = min(
            (place for place in (right - 1, right) if 0 <= place < len(train)), key=lambda at: abs(numbers[at] - number)
        )
        if abs(int(numbers[closest]) - number) <= NEAR:
            partner = train[closest][1]
            likeness = context.thumbnails[row.split][row.index] @ context.thumbnails["train"][partner.index]
            yield _Pair(row, partner, float(likeness))


def _lookup(context: Context, leaks: bool) -> Finding:
    scores = {split: baselines(context.manifest, split) for split in context.manifest.splits if split != "train"}
    without = {split: nearest_strangers_dice(context.manifest, split, GAP) for split in scores}
    for split, score in without.items():
        if score is not None:
            scores[split][_STRANGERS] = score
    test = scores["test"]
    lead = test["nearest_image"] - max(test["best_constant"], test["all_background"])
    # Where nothing leaks, copying does well on simple pictures too: bright blobs on a dark ground.
    severity = "info" if lead <= _LOOKUP else "error" if leaks and lead > _CHEAT else "warning"
    remembered = _STRANGERS in test and test["nearest_image"] - test[_STRANGERS] > lead / 2 > 0
    return Finding(
        rule="lookup_score",
        severity=severity,
        count=context.manifest.splits["test"].examples,
        title=f"Copying the mask of the nearest training image scores test Dice {test['nearest_image']:.3f}; "
        + (f"{test[_STRANGERS]:.3f} without the neighbours within ±{GAP} numbers; " if _STRANGERS in test else "")
        + f"the best constant mask {test['best_constant']:.3f}, all background {test['all_background']:.3f}",
        meaning=("Most of the score is memory of neighbours in the series. " if remembered else "")
        + "None of these has learned anything. A model is worth only what it scores above the best of them"
        + (
            "; here a lookup table does so well that a score near it shows memory, not skill."
            if severity != "info"
            else "."
        ),
        remedy="Read every score beside these"
        + (
            "; convert with split=grouped and see whether copying still scores."
            if severity != "info"
            else ", as the reports here show them."
        ),
        bars=Bars(
            unit="Dice",
            values=tuple(
                (f"{split}: {name.replace('_', ' ')}", score)
                for split, found in scores.items()
                for name, score in sorted(found.items(), key=lambda item: -item[1])
            ),
        ),
    )


def _scored(context: Context) -> int:
    return sum(len(rows) for split, rows in context.rows.items() if split != "train")


def _exhibits(context: Context, pairs: list[_Pair]) -> tuple[Exhibit, ...]:
    return tuple(
        Exhibit(
            caption=f"{pair.row.example.file_name} beside {pair.train.example.file_name}: "
            f"correlation {pair.likeness:.3f}",
            picture=pictures.side_by_side(pictures.example(context, pair.row), pictures.example(context, pair.train)),
        )
        for pair in pairs[:_EXAMPLES]
    )
