"""Make a registered version the champion, if it is not worse than the present one on the same test images.

    python -m experiments.promote                                        the newest version of seg-unet
    python -m experiments.promote --model models:/seg-unet/3             or the id of a run that was registered
    python -m experiments.promote --rollback yes                         back to the champion before

It is promoted if the paired 95 % interval of the difference in Dice excludes a loss over `margin` (docs/protocol.md).
Otherwise one line says why not, and the exit code is 4. `force=yes` promotes it all the same, and that is recorded on
the version. One that was rolled back is promoted again only where `model` names it, or by `force`. Where one of the two
has no scores on the challenger's test images, it is scored on those of `data`.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.command_line import datasets, entry
from experiments.command_line.options import OPTIONS, parser
from experiments.executors.local import LocalExecutor
from experiments.registry.image_scores import SPLIT, ImageScores, scores_on, stored_scores
from experiments.registry.models import fetch_version
from experiments.registry.promotion import contend, roll_back
from experiments.registry.registry import ModelInfo, Registry, check_name
from experiments.tracking.tracker import Tracker
from seg.errors import UserError

NEWEST = "newest"
_RUN = re.compile(r"[\w-]+")  # what MLflow takes for an id; a quote would end the search's own
CHALLENGER = replace(
    OPTIONS["model"],
    default=NEWEST,
    help="the challenger: newest version of model_name, models:/NAME/VERSION, or the id of a run that was registered",
)


def build_parser() -> argparse.ArgumentParser:
    names = ["model_name", "model", "margin", "force", "rollback", *datasets.OPTIONS]
    return parser("promote", __doc__, names, model=CHALLENGER)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    check_name(values.model_name)
    tracker = Tracker(launch.tracking_uri, None)
    registry = Registry(tracker.uri)
    if values.rollback == "yes":
        until_now, champion = roll_back(registry, values.model_name)
        print(f"{values.model_name} version {champion.version} is champion again, instead of {until_now.version}")
        return 0
    challenger = find_challenger(registry, values.model_name, values.model)
    with LocalExecutor(1) as executor:
        known = stored_scores(challenger, tracker, registry)
        test_key = known.test_key if known else None

        def scores_of(version: ModelInfo) -> ImageScores:
            return scores_on(
                version,
                test_key or _test_key(challenger, registry, values),
                tracker=tracker,
                registry=registry,
                executor=executor,
                values=values,
                folder=Path(values.workspace).absolute() / "promotions",
            )

        decision = contend(
            registry, challenger, scores_of, values.margin, values.force == "yes", named=values.model != NEWEST
        )
    print(f"{challenger.name} version {challenger.version}: {decision.reason}")
    return 0 if decision.promoted else entry.NOT_PROMOTED


def find_challenger(registry: Registry, name: str, model: str) -> ModelInfo:
    """The version that the option `model` means.

    Raises:
        UserError: if there is no such version.
    """
    if model == NEWEST:
        return registry.newest(name)
    if model.startswith("models:/"):
        return registry.find(model)
    version = registry.of_run(name, model) if _RUN.fullmatch(model) else None
    if version is None:
        raise UserError(
            f"model must be newest, models:/NAME/VERSION or a run whose model is a version of {name}, got '{model}'; "
            "register it with main."
        )
    return version


def _test_key(challenger: ModelInfo, registry: Registry, values: argparse.Namespace) -> str:
    """The test images of the options' dataset, for a challenger that was never scored."""
    folder = Path(values.workspace).absolute() / "promotions" / f"{challenger.name}_{challenger.version}"
    return datasets.prepare(values, fetch_version(challenger, registry, folder).image_size).splits[SPLIT].key


if __name__ == "__main__":
    entry.run(main)
