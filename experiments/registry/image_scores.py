"""The per-image test scores of a registered version, by which two versions are compared.

They come from its run's artifacts, `final/per_image.csv` and `final/evaluation.json`, not from the workspace: a version
stays comparable wherever the store can be reached. Where they are of other test images or of other options than the
version's, or gone, the version is scored anew on the images at hand.
"""

import argparse
import csv
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from experiments.command_line import datasets
from experiments.executors.base import Executor
from experiments.jobs.one_job import evaluate
from experiments.registry.models import fetch_version
from experiments.registry.registry import GATE, ModelInfo, Registry, scoring_tags
from experiments.tracking.tracker import Tracker
from seg.errors import UserError

SPLIT = "test"
FINAL = "final"  # the artifacts of the final evaluation


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """The score of every test image, in the order of the split's records.

    Attributes:
        test_key: of the images and masks; equal keys mean the same ones in the same order.
        dice_own_size: one per image.
        groups: what the bootstrap draws, one name per image; None where each image stands for itself.
    """

    test_key: str
    dice_own_size: tuple[float, ...]
    groups: tuple[str, ...] | None = None


def read_scores(folder: Path) -> ImageScores:
    """The scores that an `evaluate` job left in its folder.

    Raises:
        UserError: if the files are damaged.
    """
    try:
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        with (folder / "per_image.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        names = [f"group {row['group']}" if row["group"] else f"image {row['index']}" for row in rows]
        scores = ImageScores(
            test_key=evaluation["split_key"],
            dice_own_size=tuple(float(row[GATE]) for row in rows),
            groups=tuple(names) if any(row["group"] for row in rows) else None,
        )
        if len(rows) != evaluation["examples"]:
            raise ValueError(f"{len(rows)} rows for {evaluation['examples']} images")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} must hold the files of an evaluation, got: {error!r}; run main again.") from None
    return scores


def stored_scores(version: ModelInfo, tracker: Tracker, registry: Registry) -> ImageScores | None:
    """The scores in a version's run; None where there are none that can be read, or none of the version as it is.

    A run may have been scored again, for another model's name, with other options than this version has.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name in ("evaluation.json", "per_image.csv"):
                tracker.download(version.run_id, f"{FINAL}/{name}", Path(scratch))
            scores = read_scores(Path(scratch))
        except UserError:  # no run, no such artifact, or one of an older version: it can be scored anew
            return None
        evaluation = json.loads((Path(scratch) / "evaluation.json").read_text(encoding="utf-8"))
    options = scoring_tags(
        evaluation.get("threshold"), evaluation.get("tta", "none"), evaluation.get("largest_component", "no")
    )
    version_options = registry.scored_with(version)
    return scores if options | version_options == options else None


def scores_on(
    version: ModelInfo,
    test_key: str,
    *,
    tracker: Tracker,
    registry: Registry,
    executor: Executor,
    values: argparse.Namespace,
    folder: Path,
) -> ImageScores:
    """A version's scores on certain test images: those in its run, or else measured now.

    Args:
        test_key: of the images that the scores shall be of.
        values: the options that name the dataset with these images.
        folder: where an evaluation leaves its files.

    Raises:
        UserError: if the dataset's test images are others.
        JobFailed: if the evaluation fails.
    """
    known = stored_scores(version, tracker, registry)
    if known is not None and known.test_key == test_key:
        return known
    place = folder / f"{version.name}_{version.version}"
    model = fetch_version(version, registry, place)
    manifest = datasets.prepare(values, model.image_size)
    model.check_classes(manifest)
    found = manifest.splits[SPLIT].key
    if found != test_key:
        raise UserError(
            f"version {version.version} has no scores on the test images {test_key} and must be scored on them, and "
            f"data '{values.data}' has the test images {found}; give the data and the split of the other version."
        )
    evaluate(executor, place, model.file, manifest, SPLIT, model.threshold, model.tta, model.largest_component)
    return read_scores(place)
