"""From the `data` option to a converted dataset: generates the demo, converts what is stale, says what it did."""

import argparse
import sys
from pathlib import Path

from seg.data.convert import convert
from seg.data.demo import write_demo
from seg.data.manifest import Manifest

DEMO = "demo"
OPTIONS = ("data", "categories", "on_bad", "split", "group_pattern", "workspace")


def export_folder(values: argparse.Namespace) -> Path:
    """The export that `data` names; the demo is generated when it is not there yet."""
    if values.data != DEMO:
        return Path(values.data)
    workspace = Path(values.workspace)
    data = workspace / DEMO
    if not data.exists():
        partial = workspace / f".{DEMO}.partial"
        write_demo(partial)
        partial.rename(data)
    return data


def prepare(values: argparse.Namespace, image_size: int, split: str | None = None) -> Manifest:
    """The converted dataset that the options name, converted now unless it is up to date.

    Args:
        values: the parsed options.
        image_size: side of the records, in pixels.
        split: how the images are divided, where the option `split` means something else.

    Raises:
        UserError: if `data` is no COCO export, or holds what `on_bad=fail` refuses.
    """
    return convert(
        export_folder(values),
        Path(values.workspace),
        image_size=image_size,
        categories=values.categories,
        on_bad=values.on_bad,
        split=split or values.split,
        group_pattern=values.group_pattern,
        announce=lambda line: print(line, file=sys.stderr),
    )
