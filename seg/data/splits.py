"""How the images are divided: as the export has it, by groups, or into folds.

    official        the export's own train, val and test
    grouped         the same shares, and nothing of a group on two sides
    kfold:K/I       K folds of groups; fold I is test, the next one val, the others train; kfold:K is kfold:K/1

Groups come from `seg.data.groups`. Every division has about the same mixture of object sizes on each side. Where a
numbered series had to be cut, the images next to the cut are left out: GAP numbers on the side that is worth less.
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seg.data.coco import Problem
from seg.data.export import ExportedImage
from seg.data.groups import Place, find_groups, groups_by_pattern
from seg.data.manifest import SPLITS
from seg.data.masks import measure
from seg.errors import UserError

OFFICIAL = "official"
GROUPED = "grouped"
GAP = 5  # numbers in a series
_QUARTERS = (0.25, 0.5, 0.75)
_KFOLD = re.compile(r"kfold:([0-9]{1,3})(?:/([0-9]{1,3}))?")


@dataclass(frozen=True)
class Division:
    """Which image goes where.

    Attributes:
        images: by split.
        left_out: what is said of the images in the gaps.
        gap: these images.
    """

    images: dict[str, list[ExportedImage]]
    left_out: list[Problem]
    gap: list[ExportedImage]


@dataclass(frozen=True)
class DivisionSettings:
    """How to divide.

    Attributes:
        split: as `check_split` returns it.
        group_pattern: regular expression on the file names; empty: groups are found.
        group_column: key of the image entries that names their group; empty: none.
        seed: of the assignment of groups.
    """

    split: str = OFFICIAL
    group_pattern: str = ""
    group_column: str = ""
    seed: int = 0


def check_split(split: str) -> str:
    """The split as the manifest spells it.

    Raises:
        UserError: if there is no such split.
    """
    if split in (OFFICIAL, GROUPED):
        return split
    match = _KFOLD.fullmatch(split)
    if match is None:
        raise UserError(f"split must be {OFFICIAL}, {GROUPED} or kfold:K/I such as kfold:5/1, got '{split}'.")
    folds, fold = int(match[1]), int(match[2] or 1)
    if folds < 3 or not 1 <= fold <= folds:
        raise UserError(f"kfold:K/I needs K of at least 3 and I from 1 to K, got '{split}'.")
    return f"kfold:{folds}/{fold}"


def divide(images: dict[str, list[ExportedImage]], settings: DivisionSettings, *, jobs: int) -> Division:
    """Divides the images of an export.

    Args:
        images: by split of the export.
        settings: how.
        jobs: processes that look at the images.

    Raises:
        UserError: if the pattern does not fit, or there are fewer groups than sides.
    """
    split, seed = settings.split, settings.seed
    if split == OFFICIAL:
        return Division(images, [], [])
    everything = [image for name in SPLITS for image in images[name]]
    places = _places(everything, settings, jobs)
    strata = _strata(everything)
    if split == GROUPED:
        shares = [len(images[name]) / len(everything) for name in SPLITS]
        side_of = dict(enumerate(SPLITS))
    else:
        folds, fold = (int(number) for number in split.removeprefix("kfold:").split("/"))
        shares = [1 / folds] * folds
        side_of = dict.fromkeys(range(folds), "train") | {fold % folds: "val", fold - 1: "test"}
    sides = assign([place.group for place in places], strata, shares, seed)
    return _without_gaps(everything, places, [side_of[side] for side in sides])


def _places(images: Sequence[ExportedImage], settings: DivisionSettings, jobs: int) -> list[Place]:
    if settings.group_column:
        return [Place(str(image.entry.group)) for image in images]
    if settings.group_pattern:
        return groups_by_pattern(images, settings.group_pattern)
    return find_groups(images, jobs)


def assign(groups: Sequence[str], strata: Sequence[int], shares: Sequence[float], seed: int) -> list[int]:
    """A side for each image: whole groups, large ones first, each to the side that lacks its strata most.

    Args:
        groups, strata: of each image.
        shares: of all images that each side should have; they add up to 1.
        seed: decides between groups of the same size.

    Raises:
        UserError: if a side stays empty.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        counts[group][stratum] += 1
    names = sorted(counts)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -counts[name].total())
    totals = Counter(strata)
    targets = [{stratum: share * total for stratum, total in totals.items()} for share in shares]
    filled: list[Counter[int]] = [Counter() for _ in shares]
    chosen = {}
    for name in names:
        lack = [
            sum(count * (1 - have[stratum] / target[stratum]) for stratum, count in counts[name].items())
            for have, target in zip(filled, targets, strict=True)
        ]
        chosen[name] = int(np.argmax(lack))
        filled[chosen[name]].update(counts[name])
    if not all(filled):
        raise UserError(
            f"a split by groups needs at least {len(shares)} groups of about the same size, found {len(names)}; "
            "use another group_pattern or group_column, fewer folds, or split=official."
        )
    return [chosen[group] for group in groups]


def _strata(images: Sequence[ExportedImage]) -> list[int]:
    """0 for an image without foreground, else 1 to 4: the quarter that its share of foreground lies in."""
    shares = np.array(
        [
            sum(
                measure(annotation.segmentation, image.entry.height, image.entry.width)[0]
                for annotation in image.annotations
            )
            / (image.entry.height * image.entry.width)
            for image in images
        ]
    )
    present = shares > 0
    strata = np.zeros(len(shares), int)
    if present.any():
        strata[present] = 1 + np.searchsorted(np.quantile(shares[present], _QUARTERS), shares[present])
    return [int(stratum) for stratum in strata]


def _without_gaps(images: Sequence[ExportedImage], places: Sequence[Place], names: Sequence[str]) -> Division:
    """Leaves out training images next to scored ones, and validation images next to test images, in a cut series."""
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, name in zip(places, names, strict=True):
        if place.series is not None:
            numbers[place.series, name].append(place.number)
    for found in numbers.values():
        found.sort()
    kept: dict[str, list[ExportedImage]] = {name: [] for name in SPLITS}
    left_out, gap = [], []
    for image, place, name in zip(images, places, names, strict=True):
        worth_more = SPLITS[SPLITS.index(name) + 1 :]
        if place.series is not None and any(_near(numbers[place.series, other], place.number) for other in worth_more):
            gap.append(image)
            left_out.append(
                Problem(
                    split=name,
                    file=str(image.path),
                    rule="split_gap",
                    message=f"within {GAP} numbers of an image in another split; left out",
                    image_id=image.entry.id,
                    file_name=image.entry.file_name,
                )
            )
        else:
            kept[name].append(replace(image, group=place.group))
    for name, found_images in kept.items():
        if not found_images:
            raise UserError(f"split {name} is empty once the gaps are left out; use split=official or a group_pattern.")
    return Division(kept, left_out, gap)


def _near(numbers: list[int], number: int) -> bool:
    position = bisect_left(numbers, number - GAP)
    return position < len(numbers) and numbers[position] <= number + GAP
