"""Convert a COCO export once: checked images and masks at one size, in a folder named by their content.

Processes that may die decode, rasterise and write; this one only collects. A folder without its manifest is no dataset,
so a conversion that is killed leaves nothing that a later one would trust.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from seg.data.coco import Annotation, AnnotationFile, ImageEntry, Problem, read_annotations
from seg.data.files import HashCache, locate
from seg.data.images import decode_image, resize_image, resize_mask
from seg.data.layout import SplitSource, find_splits
from seg.data.manifest import IGNORE, MANIFEST, Example, Manifest, SplitSummary
from seg.data.masks import example_mask, used_categories
from seg.data.segmentation import BrokenRule
from seg.data.workers import Died, map_in_processes
from seg.errors import UserError

VERSION = 1  # raise it when the same input gives other records
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One image to convert, safe to send to a process."""

    split: str
    row: int
    path: Path
    entry: ImageEntry
    sha256: str
    annotations: tuple[Annotation, ...]
    mask_name: str


@dataclass(frozen=True, kw_only=True)
class _Converted:
    example: Example
    foreground: int
    mask_digest: str


def convert(
    data: Path,
    workspace: Path,
    *,
    image_size: int,
    categories: str = "all",
    on_bad: str = "fail",
    crowds: str = "ignore",
    jobs: int | None = None,
) -> Manifest:
    """Converts an export into `workspace/datasets/KEY`, unless that is there already.

    Args:
        data: the export's folder.
        workspace: where datasets are kept.
        image_size: side of the square images, in pixels.
        categories: `all`, or names separated by commas; their union is the foreground.
        on_bad: what a broken rule does: `fail` ends the conversion with the full list, `skip` leaves the image out.
        crowds: what crowd regions are, `ignore` or `foreground`; where every annotation is a crowd, as brush tools
            export them, they are foreground in any case.
        jobs: number of processes; None: one per processor.

    Raises:
        UserError: if the export is no COCO export, or if something in it is broken and `on_bad` is `fail`.
    """
    if on_bad not in ("fail", "skip"):
        raise UserError(f"on_bad must be fail or skip, got '{on_bad}'.")
    splits = find_splits(data)
    files = {source.name: read_annotations(source.annotations, _read(source), source.name) for source in splits}
    problems = [problem for file in files.values() for problem in file.problems]
    known = {category.id: category for file in files.values() for category in file.categories}
    used = used_categories(list(known.values()), categories)
    everything = [annotation for file in files.values() for annotation in file.annotations]
    if everything and all(annotation.crowd for annotation in everything):
        crowds = "foreground"
    workspace.mkdir(parents=True, exist_ok=True)
    located, lost = _locate(splits, files, data, workspace)
    _stop_if_bad(problems + lost, on_bad)

    settings = {"image_size": image_size, "categories": sorted(used), "crowds": crowds, "on_bad": on_bad}
    key = _key(settings, files, located)
    folder = workspace / "datasets" / key
    with _lock(folder.with_name(f".{key}.lock")):
        if (folder / MANIFEST).exists():
            print(f"{data} is converted already, up to date: {folder}", file=sys.stderr)
            return Manifest.load(folder)
        partial_folder = folder.with_name(f".{key}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir()
        summaries = {}
        failed: list[Problem] = []
        with _progress(sum(map(len, located.values())), data) as bar:
            for name in files:
                sources = _sources(name, files[name], located[name], used)
                summary, bad = _convert_split(partial_folder, name, sources, image_size, crowds, jobs, bar)
                summaries[name] = summary
                failed += bad
        _stop_if_bad(failed, on_bad)
        counts = Counter(annotation.category_id for annotation in everything)
        manifest = Manifest(
            folder=partial_folder,
            key=key,
            name=data.resolve().name,
            image_size=image_size,
            split="official",
            settings=settings,
            categories=[
                {
                    "id": category.id,
                    "name": category.name,
                    "annotations": counts[category.id],
                    "used": category.id in used,
                }
                for category in known.values()
            ],
            splits=summaries,
            left_out=[_left_out(problem) for problem in problems + lost + failed],
        )
        manifest.save()
        shutil.rmtree(folder, ignore_errors=True)  # one without a manifest
        partial_folder.replace(folder)
    return Manifest.load(folder)


def _read(source: SplitSource) -> bytes:
    try:
        return source.annotations.read_bytes()
    except OSError as error:
        raise UserError(f"{source.annotations} cannot be read ({error.strerror}); check its permissions.") from None


def _locate(
    splits: Sequence[SplitSource], files: dict[str, AnnotationFile], data: Path, workspace: Path
) -> tuple[dict[str, list[tuple[ImageEntry, Path, str]]], list[Problem]]:
    """The images of each split with their files and hashes, and what is wrong with the rest."""
    cache = HashCache(workspace / "hashes.json")
    export = data.resolve()
    located: dict[str, list[tuple[ImageEntry, Path, str]]] = {}
    problems: list[Problem] = []
    for source in splits:
        found = []
        for entry in files[source.name].images:
            try:
                found.append((entry, *locate(source.images, entry.file_name, export)))
            except BrokenRule as broken:
                problems.append(_problem(source.name, source.annotations, entry, broken))
        kept = []
        digests = cache.hashes((path, state) for _, path, state in found)
        for (entry, path, _), digest in zip(found, digests, strict=True):
            if isinstance(digest, BrokenRule):
                problems.append(_problem(source.name, path, entry, digest))
            else:
                kept.append((entry, path, digest))
        located[source.name] = kept
    cache.save()
    return located, problems


def _problem(split: str, file: Path, entry: ImageEntry, broken: BrokenRule) -> Problem:
    return Problem(
        split=split,
        file=str(file),
        rule=broken.rule,
        message=broken.message,
        image_id=entry.id,
        file_name=entry.file_name,
    )


def _left_out(problem: Problem) -> dict[str, Any]:
    names = ("split", "file_name", "annotation_id", "rule", "message")
    return {name: getattr(problem, name) for name in names}


def _stop_if_bad(problems: Sequence[Problem], on_bad: str) -> None:
    """Ends the conversion with the list of what is broken; the full list goes to stderr."""
    bad = [problem for problem in problems if problem.fatal]
    if not bad or on_bad == "skip":
        return
    for problem in bad:
        print(f"  {problem}", file=sys.stderr)
    raise UserError(
        f"the export breaks {len(bad)} rules (listed above); repair it, or leave those images out: on_bad=skip."
    )


def _key(
    settings: dict[str, Any],
    files: dict[str, AnnotationFile],
    located: dict[str, list[tuple[ImageEntry, Path, str]]],
) -> str:
    content = {
        "version": VERSION,
        "settings": settings,
        "annotations": {name: file.sha256 for name, file in files.items()},
        "images": {
            name: [(entry.file_name, digest) for entry, _, digest in images] for name, images in located.items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Two conversions of the same content do the work once: the second waits and finds it done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _progress(total: int, data: Path) -> "tqdm[Any]":
    return tqdm(total=total, desc=f"converting {data.name}", unit="image", delay=2)


def _sources(
    name: str, file: AnnotationFile, images: Sequence[tuple[ImageEntry, Path, str]], used: set[int]
) -> list[_Source]:
    by_image: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in file.annotations:
        if annotation.category_id in used:
            by_image[annotation.image_id].append(annotation)
    taken: Counter[str] = Counter()
    sources = []
    for row, (entry, path, digest) in enumerate(images):
        stem = str(Path(entry.file_name).with_suffix("")).replace("/", "__").replace("\\", "__")
        taken[stem.lower()] += 1
        suffix = "" if taken[stem.lower()] == 1 else f"__{entry.id}"
        sources.append(
            _Source(
                split=name,
                row=row,
                path=path,
                entry=entry,
                sha256=digest,
                annotations=tuple(by_image[entry.id]),
                mask_name=f"{stem}{suffix}.png",
            )
        )
    return sources


def _convert_split(
    folder: Path,
    name: str,
    sources: Sequence[_Source],
    image_size: int,
    crowds: str,
    jobs: int | None,
    bar: "tqdm[Any]",
) -> tuple[SplitSummary, list[Problem]]:
    """Converts one split and writes its records, masks and examples."""
    (folder / f"{name}_mask").mkdir()
    records = folder / f"{name}.npy"
    shape = (len(sources), image_size, image_size, 4)
    np.lib.format.open_memmap(records, mode="w+", dtype=np.uint8, shape=shape).flush()
    convert_one = partial(_convert_one, folder=folder, image_size=image_size, crowds=crowds)
    converted: dict[int, _Converted] = {}
    problems = []
    for index, outcome in map_in_processes(convert_one, sources, jobs or os.cpu_count() or 1):
        bar.update()
        source = sources[index]
        if isinstance(outcome, _Converted):
            converted[index] = outcome
            continue
        if isinstance(outcome, Died):
            outcome = BrokenRule("process_died", f"its process ended with code {outcome.exitcode}")
        problems.append(_problem(name, source.path, source.entry, outcome))
    kept = sorted(converted)
    if len(kept) < len(sources):
        _keep_rows(records, kept)
    found = [converted[index] for index in kept]
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(one.example)) + "\n" for one in found)
    identity = json.dumps(sorted((one.example.sha256, one.mask_digest) for one in found))
    pixels = len(found) * image_size * image_size
    return (
        SplitSummary(
            examples=len(found),
            empty=sum(one.foreground == 0 for one in found),
            foreground=sum(one.foreground for one in found) / pixels if pixels else 0.0,
            key=hashlib.sha256(identity.encode()).hexdigest(),
        ),
        problems,
    )


def _convert_one(source: _Source, *, folder: Path, image_size: int, crowds: str) -> _Converted | BrokenRule:
    """Converts one image in a process of its own; what is wrong with it is returned, not raised."""
    cv2.setNumThreads(0)
    entry = source.entry
    try:
        image = decode_image(source.path.read_bytes())
    except (OSError, UserError) as error:
        return BrokenRule("unreadable_image", str(error))
    if image.shape[:2] != (entry.height, entry.width):
        return BrokenRule(
            "size_mismatch",
            f"the annotations say {entry.width}×{entry.height} pixels, the file has {image.shape[1]}×{image.shape[0]}",
        )
    mask, counts, ignored = example_mask(source.annotations, entry.height, entry.width, crowds=crowds)
    small = resize_mask(mask, image_size, image_size)
    record = np.dstack([resize_image(image, image_size, image_size), small])
    size = record.nbytes
    with (folder / f"{source.split}.npy").open("r+b") as file:
        header = os.fstat(file.fileno()).st_size % size
        os.pwrite(file.fileno(), record.tobytes(), header + source.row * size)
    shown = np.where(small == IGNORE, 128, small * np.uint8(255)).astype(np.uint8)
    cv2.imwrite(str(folder / f"{source.split}_mask" / source.mask_name), shown, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    example = Example(
        image_id=entry.id,
        file_name=f"{entry.file_name}",
        height=entry.height,
        width=entry.width,
        sha256=source.sha256,
        mask=counts,
        ignore=ignored,
    )
    digest = hashlib.sha256(f"{counts} {ignored}".encode()).hexdigest()
    return _Converted(example=example, foreground=int((small == 1).sum()), mask_digest=digest)


def _keep_rows(records: Path, kept: Sequence[int]) -> None:
    """Rewrites the records without those that could not be converted, one at a time."""
    old = np.load(records, mmap_mode="r")
    partial_file = records.with_name(f".{records.name}")
    new = np.lib.format.open_memmap(partial_file, mode="w+", dtype=np.uint8, shape=(len(kept), *old.shape[1:]))
    for row, index in enumerate(kept):
        new[row] = old[index]
    new.flush()
    partial_file.replace(records)
