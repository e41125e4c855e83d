"""Masks of image files, as pictures and as COCO results; the same command again does only what is missing.

    python -m experiments.predict --images scans --model models:/seg-unet@champion

OUTPUT/masks/NAME.png is 0 and 255 at the image's own size (of several classes, their numbers 1, 2, …),
OUTPUT/overlays/NAME.png shows it on the image, results.json holds all masks with their scores, images.json says which
image each id is, and predictions.csv is a table of them.

A file that is no image costs that file: the others are predicted, the broken ones are named, and the exit code is 1.
"""

import argparse
import glob
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import entry
from experiments.command_line.options import AUTO, parser
from experiments.prediction.batch_prediction import (
    PredictedFile,
    PredictionSettings,
    hash_model,
    open_output,
    predict_files,
)
from experiments.prediction.coco_results import image_ids, remove_results, write_results
from experiments.registry.models import fetch_model
from experiments.tracking.tracker import Tracker
from seg.errors import UserError
from seg.inference import Predictor
from seg.start import start_tensorflow

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


NAMES = ("images", "model", "output", "threshold", "tta", "largest_component", "segmentation")


def build_parser() -> argparse.ArgumentParser:
    return parser("predict", __doc__, [*NAMES])


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


@dataclass
class _Count:
    """What is said on stderr while the files go by, and how many there were of each kind."""

    predicted: int = 0
    unlike: int = 0
    broken: int = 0

    def good(self, files: Iterable[PredictedFile]) -> Iterator[PredictedFile]:
        for file in files:
            if "error" in file.record:
                self.broken += 1
                print(f"error: {file.path}: {file.record['error']}", file=sys.stderr)
                continue
            if file.record["unlike"]:
                self.unlike += 1
                print(f"unlike the training images: {file.path}: {'; '.join(file.record['unlike'])}", file=sys.stderr)
            self.predicted += 1
            yield file


def predict_folder(predictor: Predictor, paths: Sequence[Path], output: Path, settings: PredictionSettings) -> int:
    """Pictures, COCO results and table of all files, and what there is to say of them; returns the exit code."""
    ids = image_ids(paths, predictor.classes)
    count = _Count()
    with open_output(output, settings) as journal:
        remove_results(output)
        files = predict_files(predictor, paths, output, settings, journal)
        write_results(count.good(files), output, ids, settings.key)
    if ids.note:
        print(f"the image ids of results.json are its own: {ids.note}")
    print(f"{count.predicted} of {len(paths)} images, {count.unlike} of them unlike the training images: {output}")
    return entry.FAILED if count.broken else 0


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    output = Path(values.output)
    paths = find_images(values.images, output)
    with tempfile.TemporaryDirectory() as scratch:
        model = fetch_model(values.model, Tracker(launch.tracking_uri, None), Path(scratch))
        start_tensorflow()
        predictor = Predictor.load(model.file)
        settings = PredictionSettings(
            model=hash_model(model.file),
            threshold=predictor.threshold if values.threshold is None else predictor.checked(values.threshold),
            tta=predictor.tta if values.tta == AUTO else values.tta,
            largest_component=(
                predictor.largest_component if values.largest_component == AUTO else values.largest_component
            ),
            segmentation=values.segmentation,
        )
    return predict_folder(predictor, paths, output, settings)


if __name__ == "__main__":
    entry.run(main)
