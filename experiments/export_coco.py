"""Write a dataset back as a COCO export: images and masks, divided, merged and cleaned as the options say.

    python -m experiments.export_coco --data FOLDER --split grouped --output coco --segmentation polygon

OUTPUT gets train/, valid/ and test/, each with _annotations.coco.json beside copies of its images. There is one
category, foreground, or one for each of several classes, and its masks are those of the dataset pixel for pixel, at the
images' own size; ignored regions are crowds. `convert` with --data=OUTPUT gives the same masks again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.command_line import datasets, entry
from experiments.command_line.options import OPTIONS, parser
from seg.data.export_coco import export_coco

OVERRIDES = {"output": replace(OPTIONS["output"], default="coco", help="new or empty folder for the COCO export")}


def build_parser() -> argparse.ArgumentParser:
    return parser("export_coco", __doc__, [*datasets.OPTIONS, "image_size", "output", "segmentation"], **OVERRIDES)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    manifest = datasets.prepare(values, values.image_size)
    output = Path(values.output)
    exported = export_coco(
        manifest,
        datasets.export_folder(values),
        output,
        segmentation=values.segmentation,
        additional=datasets.additional_folder(values),
    )
    print(f"exported {exported.images} images with {exported.annotations} annotations: {output}")
    return 0


if __name__ == "__main__":
    entry.run(main)
