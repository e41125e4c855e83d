"""The whole job: convert if stale, audit, train the study, score the winner on the test split once, register it.

    python -m experiments.main                          a generated demo dataset, small enough for two CPU cores
    python -m experiments.main --data FOLDER            a COCO export (Roboflow's layout, or COCO's)
    python -m experiments.main --data FOLDER --preset recipe    the best that we know, an hour of two CPU cores

Run the same command again and it goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import audit
from experiments.card.publish import publish_card
from experiments.command_line import datasets, entry, presets
from experiments.command_line.options import FIELDS, parser
from experiments.registry.registry import Registry, check_contender, check_name
from experiments.report import note_origin, publish_page
from experiments.storage.study_hold import hold_command
from experiments.studies.final_test import SCORING
from experiments.studies.finish import Finished, check_select, finish
from experiments.study import LISTS, STUDY_OPTIONS, conduct, open_executor, search_space
from experiments.tracking.study_report import publish_study
from experiments.tracking.tracker import Tracker
from experiments.tracking.transport import answers

GIVEN = {**LISTS, **SCORING}


def build_parser() -> argparse.ArgumentParser:
    names = [*datasets.OPTIONS, "preset", *STUDY_OPTIONS, "objective", "select", "model_name", *FIELDS]
    names += [*SCORING]
    return parser("main", __doc__, names, **GIVEN | presets.options(GIVEN))


def main(arguments: Sequence[str] | None = None) -> int:
    values = presets.apply(build_parser().parse_args(arguments), GIVEN)
    launch = entry.read_launch()
    space = search_space(values)
    check_name(values.model_name)
    tracker = Tracker(launch.tracking_uri, None, values.workspace, f"study_{values.study}")
    manifest = datasets.prepare(values, space.base.image_size)
    check_select(values.select, manifest)
    if answers(tracker.uri):  # else `finish` asks
        check_contender(Registry(tracker.uri), values.model_name, manifest.classes)
    audited = Path(values.workspace) / "audits" / manifest.key
    audit.report(values, manifest, audited, sys.stderr)
    with (
        hold_command(values.storage, values.study) as command,
        tracker,
        open_executor(values, space, manifest) as executor,
    ):
        result = conduct(values, space, manifest, tracker, executor, launch.run_id, lease=command.lease)
        if (elsewhere := command.ended_elsewhere(result.rows)) is None:
            with tracker.ending(result.run_id):
                note_origin("main", build_parser(), values, result.run_id, launch.tracking_uri)
                publish_study(result, manifest, tracker)
                tracker.log_folder(result.run_id, audited, "audit")
                with tracker.answering():
                    finished = finish(result, space, manifest, tracker, executor, values)
                    publish_card(finished, result.run_id, manifest, audited, tracker, values)
                publish_page(values.study, values.storage, Path(values.workspace), tracker)
    if elsewhere is not None:
        print(elsewhere)
        return entry.done(tracker)
    print(summary(finished, values.model_name))
    print(f"browse:     {tracker.where_to_browse(result.run_id)}")
    return entry.done(tracker)


def summary(finished: Finished, model_name: str) -> str:
    """The lines that a person reads at the end."""
    evaluation = finished.evaluation
    dice = evaluation["scores"]["dice"]
    selection = finished.selection
    rows = [(f"Dice on {evaluation['examples']} test images", dice["mean"])]
    rows += [(f"  {name.replace('_', ' ')}", score) for name, score in evaluation["baselines"].items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"selected: trial {selection.trial}, {finished.arm}", f"  {selection.because}"]
    lines += [f"  {name:{width}}  {score:.3f}" for name, score in rows]
    lines[2] += f"  (95 %: {dice['low']:.3f} to {dice['high']:.3f}), beside three that learned nothing:"
    lines += [
        f"registered: {model_name} version {finished.version.version}, {finished.decision.reason}",
        f'load:       mlflow.pyfunc.load_model("models:/{model_name}@champion")',
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    entry.run(main)
