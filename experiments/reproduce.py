"""Train a recorded run again, and say whether the same model comes out; if not, what differs and by how much.

    python -m experiments.reproduce --run RUN_ID

RUN_ID is a run of train, a trial of a study, or a study, which means its best trial. Configuration and seed come from
the run, the data from the workspace; if they are not there any more, they are converted again from `data` as before.
The exit code is 0 if weights and scores are equal bit for bit, 4 if they are not.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import datasets, entry
from experiments.command_line.options import parser
from experiments.executors.local import LocalExecutor
from experiments.jobs.environment import ENVIRONMENT, Environment
from experiments.jobs.tasks import RESULT
from experiments.reproduction.recorded_run import RecordedRun, dataset_of, find_run, read_result
from experiments.reproduction.reproduction import (
    NOT_RECORDED,
    Difference,
    Reproduction,
    compare_environments,
    compare_histories,
)
from experiments.reproduction.reproduction_report import markdown, sentence, table
from experiments.reproduction.weights import compare_weights, read_weights
from experiments.tracking.tracker import Tracker
from experiments.tracking.training_run import run_folder, train_in_run
from seg.inference import MODEL


def build_parser() -> argparse.ArgumentParser:
    return parser("reproduce", __doc__, ["run", "data", "additional", "workspace"])


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    tracker = Tracker(launch.tracking_uri, None)
    with tempfile.TemporaryDirectory() as scratch:
        recorded = find_run(values.run, tracker, Path(scratch))
        then = read_weights(recorded.model)  # before an hour of training, if it cannot be read
        manifest = dataset_of(recorded, values)
        config, original = recorded.config, recorded.record.run_id
        datasets.check_batch(manifest, config)
        run_id = tracker.start_run(f"reproduce {original[:8]}", config.as_dict(), manifest, adopt=launch.run_id)
        with tracker.ending(run_id), LocalExecutor(1) as executor:
            tracker.log_tags(run_id, {"reproduces": original})
            folder = run_folder(values.workspace, run_id)
            # What pruned a trial is not asked again: it stops where it stopped.
            last = len(recorded.result.history) if recorded.result.stop_reason == "pruned" else None
            train_in_run(run_id, config, manifest, folder, tracker, executor, last)
            found = Reproduction(
                run_then=original,
                run_now=run_id,
                dataset_key=manifest.key,
                weights=compare_weights(then, read_weights(folder / MODEL)),
                history=compare_histories(recorded.result, read_result((folder / RESULT).read_text(encoding="utf-8"))),
                differences=(
                    *compare_configurations(recorded),
                    *compare_environments(
                        recorded.environment, Environment.read((folder / ENVIRONMENT).read_text(encoding="utf-8"))
                    ),
                ),
            )
            publish(found, tracker)
    print(table(found))
    print(f"run {run_id}; browse: {tracker.where_to_browse(run_id)}")
    print(sentence(found))
    return 0 if found.same else entry.NOT_THE_SAME


def compare_configurations(recorded: RecordedRun) -> list[Difference]:
    """What the run says of its configuration that this version of the project takes otherwise."""
    used = recorded.config.as_dict()
    assumed = [
        Difference(kind="configuration", name=name, then=NOT_RECORDED, now=str(used[name])) for name in recorded.assumed
    ]
    if used["precision"] == "auto":
        assumed.append(
            Difference(kind="configuration", name="precision", then=NOT_RECORDED, now="auto, chosen on this machine")
        )
    unknown = [
        Difference(kind="configuration", name=name, then=value, now="not known to this version")
        for name, value in recorded.unknown.items()
    ]
    return assumed + unknown


def publish(found: Reproduction, tracker: Tracker) -> None:
    """Adds the comparison to the run that trained again."""
    tracker.log_text(found.run_now, found.as_json(), "reproduction.json")
    tracker.log_text(found.run_now, markdown(found), "reproduction.md")
    tracker.extend_note(found.run_now, markdown(found))
    tracker.log_tags(found.run_now, {"reproduced": "yes" if found.same else "no"})


if __name__ == "__main__":
    entry.run(main)
