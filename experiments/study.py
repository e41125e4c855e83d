"""Train every arm of a comparison, or search with TPE; one process per trial, everything in MLflow.

    python -m experiments.study --data FOLDER --study unet --loss bce,dice --filters 16,32

The same command again goes on where the study stopped. Ctrl-C ends it in order; a trial that fails is recorded, and the
others go on.
"""

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from experiments.command_line import datasets, entry
from experiments.command_line.options import FIELDS, OPTIONS, Option, parser, train_config
from experiments.command_line.progress import Progress
from experiments.executors import study_executor
from experiments.executors.base import Executor
from experiments.report import note_origin, publish_page
from experiments.storage.leases import Lease
from experiments.storage.study_hold import hold_command
from experiments.studies.comparison import front
from experiments.studies.driver import run_study
from experiments.studies.objectives import is_single
from experiments.studies.search import SearchSpace, parse_filters, parse_losses
from experiments.studies.settlement import Limits
from experiments.studies.study_result import StudyResult
from experiments.tracking.study_report import publish_study
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.manifest import Manifest

TPE_TRIALS = 20
LISTS: dict[str, Option] = {
    "loss": replace(OPTIONS["loss"], default="bce,dice", choices=None, help="losses to compare, with commas"),
    "filters": replace(
        OPTIONS["filters"],
        type=str,
        default="16,32",
        help="widths of the network's first level to compare, with commas",
    ),
}
STUDY_OPTIONS = ("sampler", "trials", "study", *study_executor.OPTIONS, "storage", "retries", "trial_timeout")


def build_parser() -> argparse.ArgumentParser:
    return parser("study", __doc__, [*datasets.OPTIONS, *STUDY_OPTIONS, "objective", *FIELDS], **LISTS)


def search_space(values: argparse.Namespace) -> SearchSpace:
    """What the options say to try.

    Raises:
        UserError: if an arm cannot be trained.
    """
    losses, filters = parse_losses(values.loss), parse_filters(values.filters)
    base = train_config(values, loss=losses[0], filters=filters[0])
    return SearchSpace(base=base, losses=losses, filters=filters, sampler=values.sampler, objective=values.objective)


def trials_of(values: argparse.Namespace, space: SearchSpace, configs: Sequence[TrainConfig] | None = None) -> int:
    """How many trials the study shall have, earlier calls included."""
    trials = len(configs) if configs is not None else values.trials
    return int(trials) or (len(space.arms()) if space.sampler == "grid" else TPE_TRIALS)


def open_executor(
    values: argparse.Namespace, space: SearchSpace, manifest: Manifest
) -> AbstractContextManager[Executor]:
    """Where the options want the study to train; see `study_executor.open_executor`."""
    return study_executor.open_executor(values, space.arms(), trials_of(values, space), manifest)


def conduct(
    values: argparse.Namespace,
    space: SearchSpace,
    manifest: Manifest,
    tracker: Tracker,
    executor: Executor,
    adopt: str | None,
    configs: Sequence[TrainConfig] | None = None,
    lease: Lease | None = None,
) -> StudyResult:
    """Runs the study that the options describe, or a grid of these configurations; its MLflow run stays open.

    Raises what `run_study` raises.
    """
    for arm in space.arms():
        datasets.check_batch(manifest, arm)
    return run_study(
        study=values.study,
        space=space,
        trials=trials_of(values, space, configs),
        manifest=manifest,
        workspace=Path(values.workspace),
        storage=values.storage,
        executor=executor,
        tracker=tracker,
        progress=Progress(),
        limits=Limits(retries=values.retries, trial_timeout=values.trial_timeout),
        adopt=adopt,
        configs=configs,
        lease=lease,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    space = search_space(values)
    tracker = Tracker(launch.tracking_uri, None, values.workspace, f"study_{values.study}")
    manifest = datasets.prepare(values, space.base.image_size)
    with hold_command(values.storage, values.study) as command, tracker:
        with open_executor(values, space, manifest) as executor:
            result = conduct(values, space, manifest, tracker, executor, launch.run_id, lease=command.lease)
        if (elsewhere := command.ended_elsewhere(result.rows)) is None:
            with tracker.ending(result.run_id):
                note_origin("study", build_parser(), values, result.run_id, launch.tracking_uri)
                publish_study(result, manifest, tracker)
                publish_page(values.study, values.storage, Path(values.workspace), tracker)
                best = result.winner()
    if elsewhere is not None:
        print(elsewhere)
        return entry.done(tracker)
    print(f"best: trial {best.number}, val_dice {best.val_dice:.3f}, run {best.run_id}")
    for row, cost in front(result.rows) if not is_single(space.objective) else ():
        print(f"front: trial {row.number}, val_dice {row.val_dice:.3f}, {cost.latency_ms:.1f} ms, run {row.run_id}")
    return entry.done(tracker)


if __name__ == "__main__":
    entry.run(main)
