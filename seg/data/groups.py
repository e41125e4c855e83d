"""Groups of images that belong on one side of a split: by a pattern of the file name, or found by looking.

Found means: images of one series (slices of a patient, frames of a video), and images of which one is a copy of the
other. A series that is a large part of the dataset is cut into contiguous blocks, where neighbours are least alike.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from seg.data.baselines import THUMBNAIL
from seg.data.export import ExportedImage
from seg.data.likeness import PICTURE, most_alike, same_texture, small_picture
from seg.data.series import place_in_series
from seg.data.workers import map_in_processes
from seg.errors import UserError

BLOCKS = 30  # that a series of the whole dataset is cut into
_CANDIDATE = 0.97  # correlation of thumbnails from which the detail is compared
_ROWS = 512  # of the likeness matrix in memory at once


@dataclass(frozen=True)
class Place:
    """An image's group; and, where its series was cut into blocks, the series and its number there."""

    group: str
    series: str | None = None
    number: int = 0


def compiled_pattern(pattern: str) -> re.Pattern[str]:
    """The option `group_pattern`.

    Raises:
        UserError: if it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"group_pattern must be a regular expression, got '{pattern}' ({error}).") from None


def group_in_name(pattern: re.Pattern[str], file_name: str) -> str | None:
    """What the pattern's first group, or else the whole pattern, matches in a file name; None where that is nothing."""
    match = pattern.search(file_name)
    return (match[min(1, pattern.groups)] or None) if match else None


def groups_by_pattern(images: Sequence[ExportedImage], pattern: str) -> list[Place]:
    """The group of each image, as its file name has it.

    Raises:
        UserError: if the pattern is no regular expression, or a file name does not match.
    """
    compiled = compiled_pattern(pattern)
    places = []
    for image in images:
        group = group_in_name(compiled, image.entry.file_name)
        if group is None:
            raise UserError(
                f"group_pattern must match every file name, and '{pattern}' finds no group in "
                f"'{image.entry.file_name}'; change the pattern."
            )
        places.append(Place(group))
    return places


def find_groups(images: Sequence[ExportedImage], jobs: int) -> list[Place]:
    """The group of each image, from the numbers in the file names and from the pixels."""
    pictures = _pictures([image.path for image in images], jobs)
    thumbnails = _thumbnails(pictures)
    places = _by_series(images, thumbnails)
    return _united(images, places, pictures, thumbnails)


def _pictures(paths: list[Path], jobs: int) -> np.ndarray:
    pictures = np.zeros((len(paths), PICTURE, PICTURE), np.uint8)
    for index, picture in map_in_processes(small_picture, paths, jobs):
        if isinstance(picture, np.ndarray):
            pictures[index] = picture
    return pictures


def _thumbnails(pictures: np.ndarray) -> np.ndarray:
    """Rows whose products are correlations, shape (images, THUMBNAIL²), float32."""
    size = (THUMBNAIL, THUMBNAIL)
    flat = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA).ravel() for picture in pictures])
    flat = flat.astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))


def _by_series(images: Sequence[ExportedImage], thumbnails: np.ndarray) -> list[Place]:
    places = [Place(f"{image.source}/{image.entry.file_name}") for image in images]
    series: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, image in enumerate(images):
        found = place_in_series(image.entry.file_name)
        if found is not None:
            series[found[0]].append((found[1], index))
    length = -(-len(images) // BLOCKS)
    for name, members in series.items():
        members.sort()
        order = [index for _, index in members]
        if len(members) <= 2 * length:
            for index in order:
                places[index] = Place(name)
            continue
        for block, (start, stop) in enumerate(_blocks(thumbnails[order], length)):
            for number, index in members[start:stop]:
                places[index] = Place(f"{name}/{block}", name, number)
    return places


def _blocks(thumbnails: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Contiguous blocks of about `length` rows, each ending where the next row is least alike."""
    following = (thumbnails[1:] * thumbnails[:-1]).sum(axis=1)
    slack = length // 4
    cuts = [0]
    for middle in range(length, len(thumbnails) - length // 2, length):
        low = max(cuts[-1] + 1, middle - slack)
        cuts.append(low + int(following[low - 1 : middle + slack].argmin()))
    return list(zip(cuts, [*cuts[1:], len(thumbnails)], strict=True))


def _united(
    images: Sequence[ExportedImage], places: list[Place], pictures: np.ndarray, thumbnails: np.ndarray
) -> list[Place]:
    """The groups, those that share a picture made one."""
    parent = {place.group: place.group for place in places}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    def unite(first: int, second: int) -> None:
        parent[root(places[first].group)] = root(places[second].group)

    known: dict[str, int] = {}
    for index, image in enumerate(images):
        unite(index, known.setdefault(image.sha256, index))
    groups = np.unique([place.group for place in places], return_inverse=True)[1]
    for start in range(0, len(images), _ROWS):
        likeness = thumbnails[start : start + _ROWS] @ thumbnails.T
        likeness[groups[start : start + _ROWS, None] == groups[None]] = -1
        for offset, row in enumerate(likeness):
            for other in most_alike(row, _CANDIDATE):
                if same_texture(pictures[start + offset], pictures[other]):
                    unite(start + offset, int(other))
    return [Place(root(place.group), place.series, place.number) for place in places]
