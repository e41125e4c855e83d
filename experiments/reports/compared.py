"""`Compared`: the arms of a grid beside each other, image by image, from what their trials predict on validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.jobs.split_predictions import SplitPredictions
from experiments.storage.stored_study import TrialRow
from experiments.studies.comparison import Arm, arms, shared_seeds
from seg.comparison import Comparison, compare_arms
from seg.data.manifest import IGNORE, Manifest, is_foreground
from seg.errors import UserError
from seg.statistics import Interval, bootstrap_mean
from seg.training.image_score import group_names, thirds

SPLIT = "val"

Predicted = Callable[[TrialRow], SplitPredictions | None]


@dataclass(frozen=True, kw_only=True)
class SizeScore:
    """The Dice of one arm on the images whose object is of one size.

    Attributes:
        name: small, medium or large: thirds of the images with foreground.
        images: how many there are.
        dice: their mean over all seeds; the interval is about other images.
        smallest, largest: share of the image that is true foreground, of the images with the least and the most.
    """

    name: str
    images: int
    dice: Interval
    smallest: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a grid's trials say of its arms.

    Attributes:
        arms: that have a finished trial, the best mean val_dice first.
        seeds: with which all of these arms were trained.
        result: of their Dice per image at the training size and threshold 0.5; positions are those of `arms`.
        empty: validation images without foreground.
        by_size: of each arm.
        false_positives: share of the empty images, over all seeds, in which an arm predicts anything; None without one.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    result: Comparison
    empty: int
    by_size: tuple[tuple[SizeScore, ...], ...]
    false_positives: tuple[Interval | None, ...]


def compare(rows: Sequence[TrialRow], manifest: Manifest | None, predicted: Predicted) -> Compared:
    """Compares the arms on the seeds that they share.

    Args:
        rows: of a grid.
        manifest: the dataset; None if the workspace no longer holds it.
        predicted: what a trial predicts on the validation split; None if that is gone.

    Raises:
        UserError: if there are fewer than two arms, they share no seed, or what it takes is gone; it says which.
    """
    found = [arm for arm in arms(rows) if arm.val_dice]
    seeds = shared_seeds(found)
    if len(found) < 2:
        raise UserError("a comparison takes two arms with a finished trial.")
    if not seeds:
        raise UserError("the arms have no seed in common; train all of them with the same ones.")
    if manifest is None:
        raise UserError("the dataset is no longer in the workspace.")
    numbered = {row.number: row for row in rows}
    predictions = [[predicted(numbered[arm.trial_by_seed[seed]]) for seed in seeds] for arm in found]
    gone = [
        str(arm.trial_by_seed[seed])
        for arm, row in zip(found, predictions, strict=True)
        for seed, each in zip(seeds, row, strict=True)
        if each is None
    ]
    if gone:
        raise UserError(f"no predictions on this dataset's validation split are left of trial {', '.join(gone)}.")
    present = [[each for each in row if each is not None] for row in predictions]
    masks = manifest.records(SPLIT)[..., 3]
    foreground = np.array([int(is_foreground(mask).sum()) for mask in masks])
    dice = np.array([[each.dice for each in row] for row in present], np.float64)
    if dice.shape[2] != len(foreground):
        raise UserError(f"the predictions are of {dice.shape[2]} images, and the dataset has {len(foreground)}.")
    names = [example.group for example in manifest.examples(SPLIT)]
    groups = group_names(names, range(len(names)))
    empty = np.flatnonzero(foreground == 0)
    return Compared(
        arms=tuple(found),
        seeds=seeds,
        result=compare_arms(dice, groups),
        empty=len(empty),
        by_size=tuple(_by_size(arm.mean(axis=0), foreground, masks.shape[1], groups) for arm in dice),
        false_positives=tuple(_false_positives(row, masks, empty, groups) for row in present),
    )


def _by_size(
    dice: NDArray[np.float64], foreground: NDArray[np.int64], image_size: int, groups: list[str] | None
) -> tuple[SizeScore, ...]:
    return tuple(
        SizeScore(
            name=name,
            images=len(part),
            dice=bootstrap_mean(dice[part], groups=_of(groups, part)),
            smallest=float(foreground[part].min()) / image_size**2,
            largest=float(foreground[part].max()) / image_size**2,
        )
        for name, part in thirds(foreground.tolist()).items()
    )


def _false_positives(
    predictions: Sequence[SplitPredictions], masks: np.ndarray, empty: NDArray[np.int64], groups: list[str] | None
) -> Interval | None:
    if not len(empty):
        return None
    anything = [
        np.mean([bool((each.mask(index)[masks[index] != IGNORE] != 0).any()) for each in predictions])
        for index in empty.tolist()
    ]
    return bootstrap_mean(np.asarray(anything, np.float64), groups=_of(groups, empty.tolist()))


def _of(groups: list[str] | None, chosen: Sequence[int]) -> list[str] | None:
    return None if groups is None else [groups[index] for index in chosen]
