"""`ImageScore`: the score of one image, and the scores of kinds of images. Imports no TensorFlow."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seg.statistics import Interval, bootstrap_mean

SIZES = ("small", "medium", "large")
_TAKEN = ("dice_own_size", "dice_pooled", "dice_positive", "dice_tuned")


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """The score of one image.

    Attributes:
        index: position in the split's records.
        file_name: of the image, in the export.
        dice, dice_own_size, iou: at the training size, at the own size, at the training size.
        true_positive, false_positive, false_negative: pixels at the training size, ignored ones in none of them. Of
            several classes, the sum of what each has.
        group: as in `Example`; empty where none is known.
        class_dice: of several classes, the Dice of each at the training size, NaN where it is neither there nor
            predicted; `dice` is their mean.
    """

    index: int
    file_name: str
    dice: float
    dice_own_size: float
    iou: float
    true_positive: int
    false_positive: int
    false_negative: int
    group: str = ""
    class_dice: tuple[float, ...] = ()

    @property
    def foreground(self) -> int:
        """True foreground pixels at the training size."""
        return self.true_positive + self.false_negative


@dataclass(frozen=True, kw_only=True)
class Part:
    """The scores of some of a split's images.

    Attributes:
        name: of the kind of images.
        images: how many there are.
        dice_own_size: their mean with its interval.
        smallest, largest: share of the image that is true foreground, of the images with the least and the most.
    """

    name: str
    images: int
    dice_own_size: Interval
    smallest: float
    largest: float


def groups_of(images: Sequence[ImageScore]) -> list[str] | None:
    """What the bootstrap draws: each image's group, one without a group being its own; None where none has one."""
    return group_names([image.group for image in images], [image.index for image in images])


def group_names(groups: Sequence[str | None], indices: Sequence[int]) -> list[str] | None:
    """The same from each image's group, if it has one, and its position in the split's records."""
    if not any(groups):
        return None
    return [f"group {group}" if group else f"image {index}" for group, index in zip(groups, indices, strict=True)]


def score_names(classes: Sequence[str]) -> list[str]:
    """What the Dice of each of several classes is called, `dice_NAME`, in letters that MLflow takes; of one: nothing.

    A name that another score or the end of an interval has, or an earlier class, gets an underscore.
    """
    names: list[str] = []
    for each in classes if len(classes) > 1 else ():
        name = f"dice_{re.sub(r'[^A-Za-z0-9_.-]', '_', each)}"
        while name in _TAKEN or name in names or name.endswith(("_low", "_high")):
            name += "_"
        names.append(name)
    return names


def thirds(foreground: Sequence[int]) -> dict[str, list[int]]:
    """Positions of the images with foreground, in thirds by how much they have: by `SIZES`, empty ones left out.

    Args:
        foreground: true foreground pixels of each image.
    """
    present = [index for index, pixels in enumerate(foreground) if pixels]
    ordered = np.asarray(sorted(present, key=lambda index: foreground[index]), dtype=int)
    parts = zip(SIZES, np.array_split(ordered, len(SIZES)), strict=True)
    return {name: part.tolist() for name, part in parts if part.size}


def by_size(images: Sequence[ImageScore], image_size: int) -> list[Part]:
    """Scores by how much of the image the foreground fills: the images with foreground in thirds, `SIZES`.

    Thirds, not fixed sizes: they hold equally many images (one more in the first ones) on any dataset. Fewer than three
    images with foreground make as many parts.
    """
    parts = thirds([image.foreground for image in images])
    return [_part(name, [images[index] for index in part], image_size) for name, part in parts.items()]


def by_group(images: Sequence[ImageScore], image_size: int) -> list[Part]:
    """Scores of each group, the lowest mean first; empty where no image has a group."""
    members: dict[str, list[ImageScore]] = defaultdict(list)
    for image in images:
        if image.group:
            members[image.group].append(image)
    parts = [_part(name, group, image_size) for name, group in members.items()]
    return sorted(parts, key=lambda part: part.dice_own_size.mean)


def _part(name: str, images: Sequence[ImageScore], image_size: int) -> Part:
    shares = [image.foreground / image_size**2 for image in images]
    return Part(
        name=name,
        images=len(images),
        dice_own_size=bootstrap_mean([image.dice_own_size for image in images], groups=groups_of(images)),
        smallest=min(shares),
        largest=max(shares),
    )
