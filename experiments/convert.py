"""Convert a COCO export once: checked images and masks at one size, in a folder named by their content.

    python -m experiments.convert --data FOLDER --image_size 256

FOLDER holds train/, valid/ and test/, each with _annotations.coco.json beside its images (Roboflow), or
annotations/instances_<split>.json and one image folder per split (COCO). A second call with the same content and
options says "up to date"; another option or one changed pixel makes another dataset.
"""

import argparse
from collections.abc import Sequence

from experiments.command_line import datasets, entry
from experiments.command_line.options import parser


def build_parser() -> argparse.ArgumentParser:
    return parser("convert", __doc__, [*datasets.OPTIONS, "image_size"])


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    manifest = datasets.prepare(values, values.image_size)
    for split, summary in manifest.splits.items():
        print(
            f"  {split:5}  {summary.examples} images, {summary.empty} without foreground, "
            f"{summary.foreground:.1%} of the pixels foreground"
        )
    if manifest.areas.agreeing < manifest.areas.stated:
        print(f"  {manifest.areas}")
    if manifest.left_out:
        print(f"  left out: {len(manifest.left_out)}; see left_out in the manifest")
    print(f"  {manifest.folder}")
    return 0


if __name__ == "__main__":
    entry.run(main)
