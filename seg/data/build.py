"""Builds one converted dataset in a folder that nobody else looks at."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from seg.data.additional import with_additional
from seg.data.certificate import summarise_areas
from seg.data.classes import BINARY
from seg.data.coco import Problem
from seg.data.export import Export, image_problem
from seg.data.files import HashCache
from seg.data.layout import ADDITIONAL
from seg.data.manifest import SPLITS, Example, Manifest, SplitSummary
from seg.data.record import Converted, RecordWriter, Refused, Task
from seg.data.segmentation import BrokenRule
from seg.data.splits import OFFICIAL, DivisionSettings, divide
from seg.data.workers import Died, Processes, map_in_processes, processes_for
from seg.errors import UserError

_BAR_AFTER = 2  # seconds
_MAY_PASS = {"worker_died", "changed_file", "unreadable_file"}
"""Rules that an image may break today and not tomorrow: a short memory, a share that was away."""


class Build:
    """One conversion.

    Attributes:
        key: of the dataset; hash of everything that decides its content, once the export has all its hashes. Where
            `run` lost images for a reason that may pass, it is another one from then on: the dataset is not the one
            that the next call looks for.
        place: where it may be built; the same for all contents of the image files.
        problems: of the export, and after `run` of its images too.
    """

    def __init__(
        self,
        export: Export,
        image_size: int,
        exif: str,
        overlaps: str,
        division: DivisionSettings,
        jobs: int,
        progress: bool,
    ) -> None:
        self._export = export
        self._image_size = image_size
        self._exif = exif
        self._overlaps = overlaps
        self._jobs = jobs
        self._progress = progress
        self._settings: dict[str, Any] = {
            "categories": export.categories,
            "crowds": export.crowds,
            "exif": exif,
            "overlaps": overlaps,
        }
        if export.classes.setting != BINARY:
            self._settings["classes"] = export.classes.setting
        if division.split != OFFICIAL:
            self._settings |= {
                "group_pattern": division.group_pattern,
                "group_column": division.group_column,
                "split_seed": division.seed,
            }
        self._division = division
        self.key, self.place = self._key(), self._key(contents=False)
        self.problems: list[Problem] = list(export.problems)

    def _key(self, *, contents: bool = True) -> str:
        settings = {"image_size": self._image_size, "split": self._division.split} | self._settings
        return self._export.key(settings, contents=contents)

    def add_hashes(self, cache: HashCache, hashes: Mapping[Path, str]) -> None:
        """Gives the export the hashes that it lacks, as far as they are not given reading the files, and the key."""
        self._export.add_hashes(cache, hashes)
        cache.save()
        self.key = self._key()

    def run(
        self,
        folder: Path,
        processes: Processes,
        cache: HashCache,
        judge: Callable[[Sequence[Problem]], None],
    ) -> None:
        """Writes the whole dataset into a new folder, its manifest last.

        Args:
            folder: does not exist.
            processes: may wait already.
            cache: of the hashes that the export lacks.
            judge: called with all problems once every image was tried; what it raises ends the work.
        """
        folder.mkdir()
        additional = self._export.images.pop(ADDITIONAL, [])
        divided = divide(self._export.images, self._division, jobs=self._jobs)
        self._export.images, corrected = with_additional(divided, additional)
        self.problems += divided.left_out + corrected
        tasks = [task for name in SPLITS for task in self._tasks(folder, name)]
        offsets = {name: self._allocate(folder, name) for name in SPLITS}
        policies = {"crowds": self._export.crowds, "exif": self._exif, "overlaps": self._overlaps}
        classes = self._export.classes.names
        writer = RecordWriter(folder, offsets, self._image_size, classes=len(classes), **policies)
        results, hashes = self._convert(tasks, writer, processes)
        if not all(image.sha256 for images in self._export.images.values() for image in images):
            self.add_hashes(cache, hashes)
        judge(self.problems)
        lost = sorted(f"{problem.split} {problem.file_name}" for problem in self.problems if problem.rule in _MAY_PASS)
        if lost:
            self.key = hashlib.sha256("\n".join([self.key, *lost]).encode()).hexdigest()[:20]
        Manifest(
            folder=folder,
            key=self.key,
            name=self._export.data.resolve().name,
            image_size=self._image_size,
            split=self._division.split,
            settings=self._settings,
            categories=self._export.category_map(),
            splits={name: self._finish(folder, name, results[name]) for name in SPLITS},
            left_out=[asdict(problem) for problem in self.problems],
            areas=summarise_areas(
                (converted.example.file_name, converted.example.areas)
                for name in SPLITS
                for _, converted in sorted(results[name].items())
            ),
            classes=classes,
        ).save()

    def _convert(
        self, tasks: list[Task], writer: RecordWriter, processes: Processes
    ) -> tuple[dict[str, dict[int, Converted]], dict[Path, str]]:
        """The converted images by split and row, the others become problems; and the hashes of the files, as read."""
        results: dict[str, dict[int, Converted]] = {name: {} for name in SPLITS}
        hashes: dict[Path, str] = {}
        processes.start(processes_for(len(tasks), self._jobs), tasks)  # before the bar starts a thread
        with closing(map_in_processes(writer, tasks, self._jobs, processes=processes)) as ended:
            for index, result in self._shown(ended, len(tasks)):
                task = tasks[index]
                if isinstance(result, Died):
                    why = "took too long and was ended" if result.hung else f"died ({result.exitcode})"
                    result = Refused(broken=BrokenRule("worker_died", f"the process that converted it {why}"))
                if isinstance(result, Refused):
                    sha256, source = result.sha256, self._export.images[task.split][task.row].source
                    self.problems.append(
                        image_problem(task.split, task.image, self._export.sources[source].images, result.broken)
                    )
                else:
                    sha256 = result.example.sha256
                    results[task.split][task.row] = result
                if sha256:
                    hashes[task.path] = sha256
        return results, hashes

    def _shown(self, ended: Iterator[tuple[int, Any]], total: int) -> Iterator[tuple[int, Any]]:
        if not self._progress or sys.stderr is None:
            return ended  # a bar that shows nothing would start a thread all the same
        return iter(tqdm(ended, total=total, desc="convert", unit="image", delay=_BAR_AFTER))

    def _tasks(self, folder: Path, name: str) -> Iterator[Task]:
        (folder / f"{name}_mask").mkdir()
        images = self._export.images[name]
        names = mask_names([image.entry.file_name for image in images])
        prefixes = {source: self._export.prefix(source) for source in self._export.sources}
        labels: dict[str, dict[int, int]] = {}
        if len(self._export.classes.names) > 1:
            labels = {source: self._export.labels(source) for source in self._export.sources}
        for row, (image, mask_name) in enumerate(zip(images, names, strict=True)):
            yield Task(
                split=name,
                row=row,
                path=image.path,
                file_name=f"{prefixes[image.source]}/{image.entry.file_name}",
                sha256=image.sha256,
                image=image.entry,
                annotations=image.annotations,
                mask_name=mask_name,
                group=image.group,
                labels=tuple(labels[image.source][each.category_id] for each in image.annotations) if labels else (),
            )

    def _allocate(self, folder: Path, name: str) -> int:
        """Creates the record file of a split at its full length; returns the length of its header."""
        shape = (len(self._export.images[name]), self._image_size, self._image_size, 4)
        path = folder / f"{name}.npy"
        return int(np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset)

    def _finish(self, folder: Path, name: str, results: dict[int, Converted]) -> SplitSummary:
        """Closes the gaps that images left out have left, and writes the examples."""
        if not results:
            lost = next(problem for problem in reversed(self.problems) if problem.split == name and problem.fatal)
            raise UserError(f"split {name} must have at least one usable image ({lost}); repair them.")
        rows = sorted(results)
        if len(rows) < len(self._export.images[name]):
            _keep_rows(folder / f"{name}.npy", rows)
        kept = [results[row] for row in rows]
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
            for converted in kept:
                line = vars(converted.example).copy()
                if not converted.example.classes:
                    del line["classes"]  # an example of a binary dataset is as it was before there were classes
                lines.write(json.dumps(line) + "\n")
        return SplitSummary(
            examples=len(kept),
            empty=sum(not converted.foreground for converted in kept),
            foreground=sum(converted.foreground for converted in kept) / (len(kept) * self._image_size**2),
            key=split_key((converted.example for converted in kept), self._exif),
        )


def mask_names(file_names: Sequence[str]) -> list[str]:
    """PNG names for masks, one folder for all: like their images, made different where two would be the same."""
    taken: set[str] = set()
    names = []
    for file_name in file_names:
        parts = [part for part in file_name.replace("\\", "/").split("/") if part not in ("", ".")]
        last, _, suffix = parts[-1].rpartition(".")
        stem = "_".join([*parts[:-1], last if last and suffix else parts[-1]])
        if len(stem.encode()) > 200:
            stem = stem[:40] + hashlib.sha256(stem.encode()).hexdigest()[:16]
        candidate, number = stem, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate.casefold())
        names.append(f"{candidate}.png")
    return names


def split_key(examples: Iterator[Example], exif: str) -> str:
    """Hash of a split's images and masks at their own size, in their order."""
    digest = hashlib.sha256()
    if exif != "ignore":  # the same files are other pictures
        digest.update(f"exif {exif}\n".encode())
    for example in examples:
        masks = " ".join([example.mask, str(example.ignore), *example.classes])
        digest.update(f"{example.sha256} {masks}\n".encode())
    return digest.hexdigest()[:20]


def _keep_rows(path: Path, rows: list[int]) -> None:
    """Rewrites a record file with some of its rows, one at a time."""
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    shorter = path.with_suffix(".shorter")
    shape = (len(rows), *records.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(records.dtype), "fortran_order": False, "shape": shape}
    with shorter.open("wb") as file:  # not through a memory map: on a full disk it would end the process with SIGBUS
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(records[row].tobytes())
    shorter.replace(path)
