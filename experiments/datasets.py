"""From the `data` option to a converted dataset: generates the demo, converts what is stale, says what it did."""

import argparse
import sys
from pathlib import Path

from seg.data.convert import convert
from seg.data.demo import write_demo
from seg.data.manifest import Manifest

DEMO = "demo"
OPTIONS = ("data", "categories", "on_bad", "workspace")


def prepare(values: argparse.Namespace, image_size: int) -> Manifest:
    """The converted dataset that the options name, converted now unless it is up to date.

    Raises:
        UserError: if `data` is no COCO export, or holds what `on_bad=fail` refuses.
    """
    workspace = Path(values.workspace)
    data = Path(values.data)
    if values.data == DEMO:
        data = workspace / DEMO
        if not data.exists():
            partial = workspace / f".{DEMO}.partial"
            write_demo(partial)
            partial.rename(data)
    return convert(
        data,
        workspace,
        image_size=image_size,
        categories=values.categories,
        on_bad=values.on_bad,
        announce=lambda line: print(line, file=sys.stderr),
    )
