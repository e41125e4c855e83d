"""From the `data` option to a converted dataset: generates the demo, converts what is stale, says what it did."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from seg.config import TrainConfig
from seg.data.audit.labels import splits_without_foreground
from seg.data.convert import convert
from seg.data.demo import write_demo
from seg.data.manifest import Manifest
from seg.data.splits import DivisionSettings
from seg.errors import UserError

DEMO = "demo"
OPTIONS = (
    "data",
    "categories",
    "classes",
    "on_bad",
    "crowds",
    "overlaps",
    "exif",
    "split",
    "group_pattern",
    "group_column",
    "split_seed",
    "additional",
    "workspace",
)


def export_folder(values: argparse.Namespace) -> Path:
    """The export that `data` names; the demo is generated when it is not there yet.

    Raises:
        UserError: if `workspace` cannot be written.
    """
    if values.data != DEMO:
        return Path(values.data)
    workspace = Path(values.workspace)
    data = workspace / DEMO
    try:
        _generate(data)
    except OSError as error:
        raise UserError(f"{workspace} must be writable and have room, got: {error}; choose another.") from error
    return data


def additional_folder(values: argparse.Namespace) -> Path | None:
    """The set of corrections that `additional` names; None where it names none."""
    return Path(values.additional) if values.additional else None


def given_division(values: argparse.Namespace, split: str) -> DivisionSettings:
    """How the options say that the images are divided."""
    return DivisionSettings(split, values.group_pattern, values.group_column, values.split_seed)


def prepare(values: argparse.Namespace, image_size: int, division: DivisionSettings | None = None) -> Manifest:
    """The converted dataset that the options name, converted now unless it is up to date.

    Says on stderr what it did, and which splits have no foreground.

    Args:
        values: the parsed options.
        image_size: side of the records, in pixels.
        division: how the images are divided, where the option `split` means something else.

    Raises:
        UserError: if `data` is no COCO export, or holds what `on_bad=fail` refuses, or `workspace` cannot be written.
    """
    division = division or given_division(values, values.split)
    manifest = convert(
        export_folder(values),
        Path(values.workspace),
        image_size=image_size,
        categories=values.categories,
        classes=values.classes,
        on_bad=values.on_bad,
        crowds=values.crowds,
        overlaps=values.overlaps,
        exif=values.exif,
        split=division.split,
        group_pattern=division.group_pattern,
        group_column=division.group_column,
        split_seed=division.seed,
        additional=additional_folder(values),
        announce=lambda line: print(line, file=sys.stderr),
    )
    if empty := splits_without_foreground(manifest):
        print(
            f"warning: no image of {', '.join(empty)} has foreground at {image_size}×{image_size} pixels; check the "
            "annotations and the option categories.",
            file=sys.stderr,
        )
    return manifest


def _generate(folder: Path) -> None:
    """Writes the demo, unless it is there: beside its place first, in a folder that no other process uses."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial.{os.getpid()}")
    try:
        write_demo(partial)
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_batch(manifest: Manifest, config: TrainConfig) -> None:
    """Before a run starts that could only fail.

    Raises:
        UserError: if the training split does not fill one batch.
    """
    examples = manifest.splits["train"].examples
    if examples < config.batch_size:
        raise UserError(
            f"batch_size must be at most the number of training images, {examples}, got {config.batch_size}; "
            f"use batch_size {max(1, examples)}."
        )
