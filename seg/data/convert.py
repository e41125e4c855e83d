"""Converts a COCO export once into the folder that `Manifest` describes, named by the content's key."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from seg.data.build import Build
from seg.data.coco import Problem
from seg.data.export import Export
from seg.data.files import HashCache
from seg.data.images import EXIF
from seg.data.manifest import MANIFEST, Manifest
from seg.data.masks import CROWDS, OVERLAPS
from seg.data.splits import OFFICIAL, DivisionSettings, check_split
from seg.data.workers import Processes
from seg.errors import UserError

ON_BAD = ("fail", "skip")
MAX_IMAGE_SIZE = 4096  # a record then takes 64 MiB
_IMAGES_PER_PROCESS = 100  # from which it pays to start one early


class BadDataError(UserError):
    """The export breaks rules. `problems` holds all of them; the message tells the first and where the list lies."""

    def __init__(self, problems: Sequence[Problem], listing: Path) -> None:
        super().__init__(
            f"the export must keep every rule, and {len(problems)} are broken, first {problems[0]}; the full list is "
            f"in {listing}; repair them, or leave these images out with on_bad=skip."
        )
        self.problems = tuple(problems)


def convert(
    data: Path,
    workspace: Path,
    *,
    image_size: int,
    categories: str = "all",
    classes: str = "binary",
    crowds: str = "ignore",
    on_bad: str = "fail",
    exif: str = "ignore",
    overlaps: str = "union",
    split: str = "official",
    group_pattern: str = "",
    group_column: str = "",
    split_seed: int = 0,
    additional: Path | None = None,
    jobs: int = 0,
    progress: bool = True,
    announce: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Converts an export, or finds that it was converted before.

    The dataset is built in `workspace/building` and renamed when it is whole; two calls at once do the work once.

    Args:
        data: folder of the export; see `seg.data.layout`.
        workspace: the dataset becomes `workspace/datasets/KEY`.
        image_size: side of the records, in pixels; at most `MAX_IMAGE_SIZE`.
        categories: names of the foreground categories, separated by commas, or `all`.
        classes: which of them are told apart in the masks: `binary`, none; `all`; or names, separated by commas, and
            the others are background. See `seg.data.classes`.
        crowds: what crowd regions are, `ignore` or `foreground`; where every annotation is a crowd, foreground.
        on_bad: at a broken rule, `fail` with the full list, or `skip` the images concerned; an annotation whose image
            is not known is refused either way.
        exif: the rotation that EXIF data asks for: `ignore` it, or `rotate` the image.
        overlaps: objects that share pixels: `union`, the pixels are foreground once; `refuse`, a broken rule.
        split: `official`, `grouped` or `kfold:K/I`; see `seg.data.splits`.
        group_pattern: regular expression on the file names whose first group names an image's group; empty: groups
            are found from numbered series and similarity.
        group_column: key of the image entries whose value names the group, such as `patient` or `extra.patient`;
            empty: none. Not together with `group_pattern`.
        split_seed: of the assignment of groups to splits.
        additional: folder of a set of corrections, COCO with the split train alone, whose images join train; None:
            there is none. See `seg.data.additional`.
        jobs: worker processes; 0 means one per core.
        progress: show a bar on stderr when it takes over two seconds.
        announce: called with the one line that says what was done: `up to date: …` or `converted …`.

    Raises:
        UserError: if an argument is out of its range, the export is not usable, or the workspace cannot be written.
        BadDataError: if rules are broken and `on_bad` is `fail`.
    """
    choices = (
        ("on_bad", on_bad, ON_BAD),
        ("crowds", crowds, CROWDS),
        ("exif", exif, EXIF),
        ("overlaps", overlaps, OVERLAPS),
    )
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got '{value}'.")
    if image_size > MAX_IMAGE_SIZE:
        raise UserError(f"image_size must be at most {MAX_IMAGE_SIZE}, got {image_size}; use a smaller one.")
    for name, number, least in (("image_size", image_size, 1), ("jobs", jobs, 0), ("split_seed", split_seed, 0)):
        if number < least:
            raise UserError(f"{name} must be at least {least}, got {number}.")
    if group_pattern and group_column:
        raise UserError(
            f"group_pattern and group_column must not both be given, got '{group_pattern}' and '{group_column}'; "
            "drop one."
        )
    division = DivisionSettings(check_split(split), group_pattern, group_column, split_seed)

    def judge(problems: Sequence[Problem]) -> None:
        if on_bad == "fail":
            _refuse(problems, workspace)

    started = time.monotonic()
    column = group_column if division.split != OFFICIAL else ""
    export = Export(data, categories, crowds, column, additional, classes)
    if on_bad == "skip":
        _refuse_unassigned(export.problems)
    jobs = jobs or os.cpu_count() or 1
    try:
        datasets = workspace / "datasets"
        datasets.mkdir(parents=True, exist_ok=True)
        # Where nothing was converted yet, there will be work: processes that are spawned start while the files are
        # looked for, and each file is read once, to hash and to convert it.
        fresh = not any(datasets.iterdir())
        images = sum(len(file.images) for file in export.files.values())
        with Processes(min(jobs, images // _IMAGES_PER_PROCESS) if fresh else 0, "seg.data.record") as processes:
            cache = HashCache(workspace / "hashes.json")
            # To divide images, or to compare them with a set of corrections, their hashes are needed first.
            unread = fresh and division.split == OFFICIAL and additional is None
            export.locate_images(cache, read=not unread)
            cache.save()
            if not all(export.images.values()):
                judge(export.problems)
            export.check_splits()
            build = Build(export, image_size, exif, overlaps, division, jobs, progress)
            with _building_place(workspace / "building", build.place) as partial:
                if unread and any(datasets.iterdir()):  # somebody else was faster, perhaps with the same dataset
                    build.add_hashes(cache, {})
                up_to_date = (datasets / build.key / MANIFEST).exists()
                if not up_to_date:
                    judge(export.problems)
                    build.run(partial, processes, cache, judge)
                folder = datasets / build.key  # another one than before, where images were lost that may come back
                if not (folder / MANIFEST).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    partial.rename(folder)
    except OSError as error:
        raise UserError(f"{workspace} must be writable and have room, got: {error}; choose another.") from error
    manifest = Manifest.load(folder)
    judge([Problem(**problem) for problem in manifest.left_out])  # it may have been converted with `skip`
    seconds = time.monotonic() - started
    images = sum(split.examples for split in manifest.splits.values())
    done = f"converted {images} images in {seconds:.1f} s ({images / seconds:.0f} images/s)"
    announce(f"{'up to date' if up_to_date else done}: {folder}")
    return manifest


def _refuse(problems: Sequence[Problem], workspace: Path) -> None:
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        listing = workspace / "problems.txt"
        listing.write_text("".join(f"{problem}\n" for problem in fatal), encoding="utf-8")
        raise BadDataError(fatal, listing)


def _refuse_unassigned(problems: Sequence[Problem]) -> None:
    """An annotation that names no image belongs to one all the same, whose mask would lack it."""
    lost = [problem for problem in problems if problem.fatal and problem.unassigned]
    if lost:
        raise UserError(
            f"on_bad=skip leaves out images, and the images of {len(lost)} annotations are not known, first {lost[0]}; "
            "repair or remove these annotations."
        )


@contextmanager
def _building_place(building: Path, key: str) -> Iterator[Path]:
    """A folder to build the dataset in, for one process at a time; the others wait.

    The system releases the lock of a process that was killed. What such a process left is removed here.
    """
    building.mkdir(exist_ok=True)
    with _lock(building, key, fcntl.LOCK_EX):
        for left in building.iterdir():
            if left.is_dir():
                with suppress(BlockingIOError):
                    # Its own key is locked already, by this process.
                    if left.name == key:
                        shutil.rmtree(left)
                    else:
                        with _lock(building, left.name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                            shutil.rmtree(left)
        try:
            yield building / key
        finally:
            shutil.rmtree(building / key, ignore_errors=True)


@contextmanager
def _lock(building: Path, key: str, operation: int) -> Iterator[None]:
    with (building / f"{key}.lock").open("w") as file:
        fcntl.flock(file, operation)
        yield
