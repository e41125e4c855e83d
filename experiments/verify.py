"""Compare what Optuna's storage, MLflow and the workspace tell of a study, and name every disagreement.

    python -m experiments.verify --study unet
    python -m experiments.verify --study unet --repair yes

States, parameters, values and epochs of each trial; runs that nobody runs, or that are gone; checkpoints and trial
folders; the records of the dataset. Exits with code 3 if a disagreement stays. While a driver holds the study, its
running and waiting trials are left out, and nothing is repaired; nor while MLflow has not been told everything.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.checks.repairs import Repairs
from experiments.checks.verification import (
    Disagreement,
    compare_dataset,
    compare_outbox,
    compare_records,
    compare_workspace,
)
from experiments.command_line import entry
from experiments.command_line.options import parser
from experiments.storage.study_hold import hold_to_repair
from experiments.storage.study_lock import StudyTaken
from experiments.storage.study_store import StudyStore, read_study
from experiments.tracking.recorded_runs import RunReader
from experiments.tracking.tracker import Tracker


def build_parser() -> argparse.ArgumentParser:
    return parser("verify", __doc__, ["study", "storage", "workspace", "repair"])


def disagreements(
    study: str, storage: str, workspace: Path, tracker: Tracker, *, driven: bool
) -> Iterator[Disagreement]:
    """All of them.

    Args:
        study: the study's name.
        storage: URL of Optuna's storage.
        workspace: folder of datasets and trials.
        tracker: of MLflow's store.
        driven: whether a driver holds the study.

    Raises:
        UserError: if the storage does not answer, or has no such study.
    """
    stored = read_study(storage, study)  # first: a trial ends in MLflow before it ends here
    reader = RunReader(tracker.uri)
    recorded = reader.study(study, stored.run_id)
    yield from compare_outbox(workspace, tracker.uri)
    yield from compare_records(stored, recorded, reader, driven=driven)
    yield from compare_workspace(stored, recorded, reader, workspace, driven=driven)
    yield from compare_dataset(stored, workspace)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    read_study(values.storage, values.study)  # before a lock is made for a study that is not there
    tracker = Tracker(launch.tracking_uri, None)
    try:
        with hold_to_repair(values.storage, values.study) as store:
            return _verify(values, tracker, store)
    except StudyTaken:
        if values.repair == "yes":
            raise
        print("a driver holds the study: its running and waiting trials are left out")
        return _verify(values, tracker, None)


def _verify(values: argparse.Namespace, tracker: Tracker, store: StudyStore | None) -> int:
    """Compares, repairs where that is asked for, and says what stays."""
    where = (values.study, values.storage, Path(values.workspace), tracker)
    found = list(disagreements(*where, driven=store is None))
    # What an outbox holds would be told after the repairs, and twice.
    repairs = values.repair == "yes" and not any(compare_outbox(Path(values.workspace), tracker.uri))
    for each in found:
        if store is not None and repairs and each.repair is not None:
            each.repair(Repairs(store, tracker))
            print(f"repaired: {each.where} {each.found}")
        else:
            print(f"{each.where} {each.found} -> {each.remedy}{' (repair=yes does it)' if each.repair else ''}")
    left = found
    if store is not None and repairs:
        left = list(disagreements(*where, driven=False))  # what was repaired is looked at again
    if left:
        print(f"study '{values.study}': {len(left)} disagreement(s)" + (" stay" if left is not found else ""))
        return entry.UNTRUSTWORTHY
    print(f"study '{values.study}': Optuna, MLflow and the workspace agree")
    return 0


if __name__ == "__main__":
    entry.run(main)
