"""Masks for image files: OUTPUT/masks/NAME.png (0 and 255, at the image's own size) and OUTPUT/overlays/NAME.png.

    python -m experiments.predict --images scans --model models:/seg-unet@champion

A file that is no image costs that file: the others are predicted, the broken ones are named, and the exit code is 1.
"""

import argparse
import glob
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
from tqdm import tqdm

from experiments import entry
from experiments.models import fetch_model
from experiments.options import parser
from experiments.tracking import Tracker
from seg import overlay
from seg.data.images import decode_image
from seg.errors import UserError
from seg.inference import Predictor
from seg.start import start_tensorflow

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def build_parser() -> argparse.ArgumentParser:
    return parser("predict", __doc__, ["images", "model", "output", "threshold"])


def find_images(images: str, output: Path) -> list[Path]:
    """The image files that `images` names: one file, those of a folder, or those that match a pattern; sorted.

    What an earlier call left in `output` is not among them.

    Raises:
        UserError: if there are none.
    """
    given = Path(images)
    if not images:
        raise UserError("images must name a file, a folder or a pattern; give --images FOLDER.")
    if given.is_file():
        return [given]
    if given.is_dir():
        found = [path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES]
    else:
        found = [Path(name) for name in glob.glob(images, recursive=True) if Path(name).is_file()]
    found = [path for path in found if not path.resolve().is_relative_to(output.resolve())]
    if not found:
        raise UserError(
            f"images names no image file, got '{images}'; give a file, a folder, or a pattern like 'scans/*.png'."
        )
    return sorted(found)


def output_names(paths: Sequence[Path]) -> list[str]:
    """One PNG name per file: its stem, and a number behind it where another file has that name already."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{path.stem}_{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names


def predict_files(predictor: Predictor, paths: Sequence[Path], output: Path, threshold: float | None) -> list[str]:
    """Writes a mask and an overlay per file; returns one line for each file that could not be predicted."""
    for folder in ("masks", "overlays"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    broken = []
    for path, name in zip(tqdm(paths, unit="image", delay=2), output_names(paths), strict=True):
        try:
            data = path.read_bytes()
            image = decode_image(data)
        except (OSError, UserError) as error:
            broken.append(f"{path}: {error}")
            continue
        mask = predictor.predict(data, threshold).mask
        _write_png(output / "masks" / name, mask * 255)
        _write_png(output / "overlays" / name, cv2.cvtColor(overlay.overlay(image, mask), cv2.COLOR_RGB2BGR))
    return broken


def _write_png(path: Path, image: cv2.typing.MatLike) -> None:
    """Writes beside the final place and renames, so that no reader meets half a picture."""
    partial = path.with_suffix(".partial.png")
    if not cv2.imwrite(str(partial), image):
        raise UserError(f"{path} cannot be written; choose another --output.")
    partial.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    output = Path(values.output)
    paths = find_images(values.images, output)
    with tempfile.TemporaryDirectory() as scratch:
        model = fetch_model(values.model, Tracker(launch.tracking_uri, None), Path(scratch))
        start_tensorflow()
        predictor = Predictor.load(model.file)
    broken = predict_files(predictor, paths, output, values.threshold)
    for line in broken:
        print(f"error: {line}", file=sys.stderr)
    print(f"{len(paths) - len(broken)} of {len(paths)} images: {output / 'masks'}, {output / 'overlays'}")
    return entry.FAILED if broken else 0


if __name__ == "__main__":
    entry.run(main)
