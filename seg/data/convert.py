"""Converts a COCO export once into the folder that `Manifest` describes, named by the content's key."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from seg.data.coco import Annotation, AnnotationFile, Category, ImageEntry, Problem, read_annotations
from seg.data.files import HashCache, locate
from seg.data.layout import SplitSource, find_splits
from seg.data.manifest import MANIFEST, SPLITS, Example, Manifest, SplitSummary
from seg.data.masks import CROWDS, used_categories
from seg.data.record import Converted, RecordWriter, Task
from seg.data.segmentation import BrokenRule
from seg.data.workers import Died, map_in_processes
from seg.errors import UserError

CONVERTER = 1  # raise it when the same input would give other records
ON_BAD = ("fail", "skip")
_BAR_AFTER = 2  # seconds


class BadDataError(UserError):
    """The export breaks rules; `problems` holds all of them, the message the first."""

    def __init__(self, problems: Sequence[Problem], listing: Path) -> None:
        first = problems[0]
        super().__init__(
            f"the export must keep every rule, and {len(problems)} are broken, first {first}; the full list is in "
            f"{listing}; repair them, or leave these images out with on_bad=skip."
        )
        self.problems = tuple(problems)


def convert(
    data: Path,
    workspace: Path,
    *,
    image_size: int,
    categories: str = "all",
    crowds: str = "ignore",
    on_bad: str = "fail",
    exif: bool = False,
    jobs: int = 0,
    progress: bool = True,
    announce: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Converts an export, or finds that it was converted before.

    The dataset is built in a folder of its own, renamed when it is whole; two calls at once do the work once.

    Args:
        data: folder of the export; see `seg.data.layout`.
        workspace: the dataset becomes `workspace/datasets/KEY`.
        image_size: side of the records, in pixels.
        categories: names of the foreground categories, separated by commas, or `all`.
        crowds: what crowd regions are, `ignore` or `foreground`; where every annotation is a crowd, foreground.
        on_bad: at a broken rule, `fail` with the full list, or `skip` the images concerned.
        exif: rotate images as their EXIF data asks.
        jobs: worker processes; 0 means one per core.
        progress: show a bar on stderr when it takes over two seconds.
        announce: called with the one line that says what was done, `up to date` or `converted`.

    Raises:
        UserError: if an argument or the export is wrong, or the workspace cannot be written.
    """
    for name, value, known in (("on_bad", on_bad, ON_BAD), ("crowds", crowds, CROWDS)):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got '{value}'.")
    if image_size < 1:
        raise UserError(f"image_size must be at least 1, got {image_size}.")
    if jobs < 0:
        raise UserError(f"jobs must be at least 0, got {jobs}; 0 means one per core.")
    started = time.monotonic()
    export = _Export(data, categories, crowds)
    try:
        (workspace / "datasets").mkdir(parents=True, exist_ok=True)
        cache = HashCache(workspace / "hashes.json")
        export.locate_images(cache)
        cache.save()
        settings = {"categories": categories, "crowds": export.crowds, "exif": exif}
        key = export.key({"image_size": image_size, **settings, "on_bad": on_bad})
        folder = workspace / "datasets" / key
        with _locked(workspace / "datasets" / f".{key}.lock"):
            if (folder / MANIFEST).exists():
                manifest = Manifest.load(folder)
                announce(f"up to date: {folder}")
                return manifest
            if on_bad == "fail":
                _refuse(export.problems, workspace)
            partial = workspace / "datasets" / f".{key}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # left by a conversion that was killed
            _remove_abandoned(workspace / "datasets")
            build = _Build(export, partial, image_size, exif, jobs or os.cpu_count() or 1, progress)
            try:
                build.run()
                if on_bad == "fail":
                    _refuse(export.problems + build.problems, workspace)
                build.manifest(key, settings | {"on_bad": on_bad}).save()
                shutil.rmtree(folder, ignore_errors=True)  # no manifest in it: not a dataset
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{workspace} must be writable and have room, got: {error}; free space or choose another."
        ) from error
    seconds = time.monotonic() - started
    images = sum(build.kept.values())
    announce(f"converted {images} images in {seconds:.1f} s ({images / seconds:.0f} images/s): {folder}")
    return Manifest.load(folder)


@dataclass(frozen=True, kw_only=True)
class _Image:
    """An image of the export with its file and the annotations of the used categories."""

    entry: ImageEntry
    path: Path
    sha256: str
    annotations: tuple[Annotation, ...]


class _Export:
    """The export as read and checked: what there is to convert, and what is wrong with the rest."""

    def __init__(self, data: Path, categories: str, crowds: str) -> None:
        self.data = data
        self.sources: dict[str, SplitSource] = {source.name: source for source in find_splits(data)}
        self.files: dict[str, AnnotationFile] = {}
        for name, source in self.sources.items():
            try:
                content = source.annotations.read_bytes()
            except OSError as error:
                raise UserError(f"{source.annotations} cannot be read ({error.strerror}).") from None
            self.files[name] = read_annotations(source.annotations, content, name)
            if not self.files[name].images:
                reasons = [str(problem) for problem in self.files[name].problems[:1]] or ["its list of images is empty"]
                raise UserError(f"split {name} must have at least one usable image ({reasons[0]}); export it again.")
        self.problems = [problem for file in self.files.values() for problem in file.problems]
        used_categories([category for file in self.files.values() for category in file.categories], categories)
        self.used = {
            name: used_categories(file.categories, categories) if categories == "all" else _ids(file, categories)
            for name, file in self.files.items()
        }
        flags = [
            annotation.crowd
            for name, file in self.files.items()
            for annotation in file.annotations
            if annotation.category_id in self.used[name]
        ]
        self.crowds = "foreground" if flags and all(flags) else crowds
        self.images: dict[str, list[_Image]] = {}

    def locate_images(self, cache: HashCache) -> None:
        """Finds and hashes the image files; what cannot be read becomes a problem."""
        resolved = self.data.resolve()
        for name, file in self.files.items():
            annotations: dict[int, list[Annotation]] = {image.id: [] for image in file.images}
            for annotation in file.annotations:
                if annotation.category_id in self.used[name]:
                    annotations[annotation.image_id].append(annotation)
            located = []
            for entry in file.images:
                try:
                    located.append((entry, *locate(self.sources[name].images, entry.file_name, resolved)))
                except BrokenRule as broken:
                    self.problems.append(_problem(name, entry, self.sources[name].images, broken))
            hashes = cache.hashes((path, found) for _, path, found in located)
            self.images[name] = []
            for (entry, path, _), digest in zip(located, hashes, strict=True):
                if isinstance(digest, BrokenRule):
                    self.problems.append(_problem(name, entry, self.sources[name].images, digest))
                else:
                    self.images[name].append(
                        _Image(entry=entry, path=path, sha256=digest, annotations=tuple(annotations[entry.id]))
                    )

    def key(self, settings: dict[str, Any]) -> str:
        """Hash of everything that decides the converted dataset."""
        content = {
            "converter": CONVERTER,
            "settings": settings,
            "splits": {
                name: [self.files[name].sha256, [(image.entry.file_name, image.sha256) for image in images]]
                for name, images in self.images.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def category_map(self) -> list[dict[str, Any]]:
        """The categories of all splits, with the number of their annotations and whether they are foreground."""
        counts: Counter[Category] = Counter()
        used: dict[Category, bool] = {}
        for name, file in self.files.items():
            by_id = {category.id: category for category in file.categories}
            for category in file.categories:
                used[category] = category.id in self.used[name]
            counts.update(by_id[annotation.category_id] for annotation in file.annotations)
        return [asdict(category) | {"annotations": counts[category], "used": used[category]} for category in used]


def _ids(file: AnnotationFile, categories: str) -> set[int]:
    """The ids of the wanted names in one split, which need not have all of them."""
    wanted = {name.strip() for name in categories.split(",")}
    return {category.id for category in file.categories if category.name in wanted}


class _Build:
    """One conversion into a folder that nobody else looks at."""

    def __init__(self, export: _Export, folder: Path, image_size: int, exif: bool, jobs: int, progress: bool) -> None:
        self.export = export
        self.folder = folder
        self.image_size = image_size
        self.exif = exif
        self.jobs = jobs
        self.progress = progress
        self.problems: list[Problem] = []
        self.kept: dict[str, int] = {}
        self.summaries: dict[str, SplitSummary] = {}

    def run(self) -> None:
        """Writes the records, the masks and the examples of every split."""
        self.folder.mkdir()
        offsets = {name: self._allocate(name) for name in SPLITS}
        writer = RecordWriter(self.folder, offsets, self.image_size, self.export.crowds, self.exif)
        tasks = [task for name in SPLITS for task in self._tasks(name)]
        results: dict[str, dict[int, Converted]] = {name: {} for name in SPLITS}
        with tqdm(total=len(tasks), desc="convert", unit="image", delay=_BAR_AFTER, disable=not self.progress) as bar:
            for index, result in map_in_processes(writer, tasks, self.jobs):
                bar.update()
                task = tasks[index]
                if isinstance(result, Died):
                    result = BrokenRule("worker_died", f"the process that converted it died ({result.exitcode})")
                if isinstance(result, BrokenRule):
                    images = self.export.sources[task.split].images
                    self.problems.append(_problem(task.split, task.image, images, result))
                else:
                    results[task.split][task.row] = result
        for name in SPLITS:
            self._finish(name, results[name])

    def manifest(self, key: str, settings: dict[str, Any]) -> Manifest:
        """The manifest of what was written."""
        return Manifest(
            folder=self.folder,
            key=key,
            name=self.export.data.resolve().name,
            image_size=self.image_size,
            split="official",
            settings=settings,
            categories=self.export.category_map(),
            splits=self.summaries,
            left_out=[asdict(problem) for problem in self.export.problems + self.problems],
        )

    def _tasks(self, name: str) -> Iterator[Task]:
        (self.folder / f"{name}_mask").mkdir()
        images = self.export.images[name]
        names = mask_names([image.entry.file_name for image in images])
        root = self.export.data.resolve()
        folder = self.export.sources[name].images.resolve().relative_to(root).as_posix()
        for row, (image, mask_name) in enumerate(zip(images, names, strict=True)):
            yield Task(
                split=name,
                row=row,
                path=image.path,
                file_name=f"{folder}/{image.entry.file_name}",
                sha256=image.sha256,
                image=image.entry,
                annotations=image.annotations,
                mask_name=mask_name,
            )

    def _allocate(self, name: str) -> int:
        """Creates the record file of a split at its full length; returns the length of its header."""
        shape = (len(self.export.images[name]), self.image_size, self.image_size, 4)
        path = self.folder / f"{name}.npy"
        return int(np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset)

    def _finish(self, name: str, results: dict[int, Converted]) -> None:
        """Closes the gaps that images left out have left, and writes the examples."""
        if not results:
            raise UserError(f"split {name} must have at least one usable image ({self.problems[-1]}); repair them.")
        rows = sorted(results)
        if len(rows) < len(self.export.images[name]):
            _keep_rows(self.folder / f"{name}.npy", rows)
        self.kept[name] = len(rows)
        kept = [results[row] for row in rows]
        with (self.folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
            for converted in kept:
                lines.write(json.dumps(asdict(converted.example)) + "\n")
        self.summaries[name] = SplitSummary(
            examples=len(kept),
            empty=sum(not converted.foreground for converted in kept),
            foreground=sum(converted.foreground for converted in kept) / (len(kept) * self.image_size**2),
            key=_split_key(converted.example for converted in kept),
        )


def mask_names(file_names: Sequence[str]) -> list[str]:
    """PNG names for masks, one folder for all: like their images, made different where two would be the same."""
    taken: set[str] = set()
    names = []
    for file_name in file_names:
        stem = "_".join(Path(file_name.replace("\\", "/")).with_suffix("").parts)
        if len(stem.encode()) > 200:
            stem = stem[:40] + hashlib.sha256(stem.encode()).hexdigest()[:16]
        candidate, number = stem, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate.casefold())
        names.append(f"{candidate}.png")
    return names


def _split_key(examples: Iterator[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.sha256} {example.mask} {example.ignore}\n".encode())
    return digest.hexdigest()[:20]


def _keep_rows(path: Path, rows: list[int]) -> None:
    """Rewrites a record file with some of its rows, one at a time."""
    records = np.load(path, mmap_mode="r")
    shorter = path.with_suffix(".shorter")
    kept = np.lib.format.open_memmap(shorter, mode="w+", dtype=np.uint8, shape=(len(rows), *records.shape[1:]))
    for place, row in enumerate(rows):
        kept[place] = records[row]
    kept.flush()
    shorter.replace(path)


def _problem(split: str, entry: ImageEntry, folder: Path, broken: BrokenRule) -> Problem:
    return Problem(
        split=split,
        file=str(folder / entry.file_name),
        rule=broken.rule,
        message=broken.message,
        image_id=entry.id,
        file_name=entry.file_name,
    )


def _refuse(problems: list[Problem], workspace: Path) -> None:
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        listing = workspace / "problems.txt"
        listing.write_text("".join(f"{problem}\n" for problem in fatal), encoding="utf-8")
        raise BadDataError(fatal, listing)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock; the system releases that of a process that was killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(datasets: Path) -> None:
    """Removes what killed conversions have left: unfinished folders whose lock nobody holds."""
    for partial in datasets.glob(".*.partial"):
        with partial.with_suffix(".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(partial, ignore_errors=True)
