"""Where Optuna's storage, MLflow, the workspace and the dataset of a study disagree, and what of it can be repaired.

What counts is Optuna's word that a trial is over, written last (see `experiments/studies/settlement.py`). A repair adds
what one record lacks and another has, ends a run whose trial is over, lets a trial wait that nobody runs, or removes
checkpoints of a trial that is over. It changes no score, parameter or image, and removes nothing that another study
might own: that is named, and left to people.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.storage.stored_study import StoredStudy, TrialRow
from experiments.studies.study_result import checkpoint_folder, trial_folder
from experiments.tracking.outboxes import Outboxes
from experiments.tracking.recorded_runs import RecordedRun, RecordedStudy, RunReader
from experiments.tracking.run_report import cost_metrics
from seg.data.manifest import Manifest
from seg.data.record_faults import record_faults
from seg.errors import UserError

if TYPE_CHECKING:
    from experiments.checks.repairs import Repairs

MODEL = "model.keras"
SETTLED = ("finished", "pruned", "failed")
_STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "waiting": "SCHEDULED"}
_OPEN = ("RUNNING", "SCHEDULED")


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One thing that two records tell differently.

    Attributes:
        where: `study`, `trial 3`, a folder.
        found: what, in one line.
        remedy: what a person can do.
        repair: what `repair=yes` does; None where no repair is safe.
    """

    where: str
    found: str
    remedy: str
    repair: "Callable[[Repairs], None] | None" = None


def compare_records(
    study: StoredStudy, recorded: RecordedStudy, reader: RunReader, *, driven: bool = False
) -> Iterator[Disagreement]:
    """Optuna's storage against MLflow.

    Args:
        study: read before `recorded`: a trial ends in MLflow first.
        recorded: its runs.
        reader: of the curves.
        driven: whether a driver holds the study: trials that run or wait are then its own business.
    """
    yield from _own_run(study, recorded, driven)
    runs = {name: run for run in recorded.trials for name in run.names}
    for row in study.rows:
        if driven and row.state not in SETTLED:
            continue
        run = runs.get(row.run_id or "none")
        where = f"trial {row.number}"
        if row.state == "running":
            yield _left_behind(where, row, run)
        elif row.run_id is None:
            if row.state in ("finished", "pruned"):
                yield Disagreement(
                    where=where, found=f"is {row.state} in Optuna and has no MLflow run", remedy="train it anew"
                )
        elif run is None or run.deleted:
            gone = "deleted" if run is not None else "missing"
            yield Disagreement(
                where=where,
                found=f"is {row.state} in Optuna, and its MLflow run {row.run_id} is {gone}",
                remedy=f"mlflow runs restore --run-id {row.run_id}" if run else "set MLFLOW_TRACKING_URI to its store",
            )
        else:
            yield from _run_of(where, study, row, run, reader)
    yield from _strays(study, recorded, driven)


def _own_run(study: StoredStudy, recorded: RecordedStudy, driven: bool) -> Iterator[Disagreement]:
    run = recorded.parent
    if run is None or run.deleted:
        if study.run_id is not None or study.rows:
            yield Disagreement(
                where="study",
                found=f"its MLflow run {study.run_id or ''} is {'deleted' if run else 'missing'}",
                remedy="restore it, or set MLFLOW_TRACKING_URI to the store that has it",
            )
    elif run.status == "RUNNING" and not driven:
        yield Disagreement(
            where="study",
            found=f"its MLflow run {run.run_id} is RUNNING without a driver",
            remedy="run the study's command again",
            repair=methodcaller("end", run.run_id, "cancelled", "its driver died"),
        )


def _left_behind(where: str, row: TrialRow, run: RecordedRun | None) -> Disagreement:
    status = f"its MLflow run is {run.status}" if run else "it has no MLflow run"
    return Disagreement(
        where=where,
        found=f"is running in Optuna without a driver, and {status}",
        remedy="run the study's command again: it goes on",
        repair=methodcaller("let_wait", row, run.run_id if run and not run.deleted else None),
    )


def _run_of(
    where: str, study: StoredStudy, row: TrialRow, run: RecordedRun, reader: RunReader
) -> Iterator[Disagreement]:
    """A trial that is over or waits against its run."""
    if run.status != _STATUS[row.state]:
        safe = run.status in _OPEN or row.state == "waiting"
        yield Disagreement(
            where=where,
            found=f"is {row.state} in Optuna, and its MLflow run {run.run_id} is {run.status}",
            remedy="run it again under another study name, if in doubt",
            repair=methodcaller("end", run.run_id, row.state, row.reason) if safe else None,
        )
    if row.config is not None:
        wanted = {name: str(value) for name, value in row.config.as_dict().items()}
        for name in sorted(wanted.keys() | run.params.keys()):
            if wanted.get(name) != run.params.get(name):
                yield Disagreement(
                    where=where,
                    found=f"has {name}={wanted.get(name)} in Optuna and {name}={run.params.get(name)} in MLflow",
                    remedy="trust neither: train it again under another study name",
                )
    if run.dataset_key != study.dataset_key:
        yield Disagreement(
            where=where,
            found=f"belongs to the dataset {study.dataset_key[:12]} in Optuna and {run.dataset_key[:12]} in MLflow",
            remedy="trust neither: train it again under another study name",
        )
    if row.state == "finished":
        yield from _values(where, row, run)
    if row.state in SETTLED:
        yield from _curve(where, row, run, reader)


def _values(where: str, row: TrialRow, run: RecordedRun) -> Iterator[Disagreement]:
    assert row.val_dice is not None
    wanted = {"best_val_dice": row.val_dice} | (cost_metrics(row.cost) if row.cost is not None else {})
    for name, value in wanted.items():
        if name not in run.metrics:
            yield Disagreement(
                where=where,
                found=f"has the value {value:.6g} in Optuna, and its MLflow run has no {name}",
                remedy="repair=yes logs it",
                repair=methodcaller("log", run.run_id, {name: value}),
            )
        elif run.metrics[name] != value:
            yield Disagreement(
                where=where,
                found=f"has the value {value:.6g} in Optuna and {name} {run.metrics[name]:.6g} in MLflow",
                remedy="its folder's result.json says which is right; train it again, if in doubt",
            )


def _curve(where: str, row: TrialRow, run: RecordedRun, reader: RunReader) -> Iterator[Disagreement]:
    logged = reader.curve(run.run_id)
    known = dict(logged)
    for epoch, times in Counter(epoch for epoch, _ in logged).items():
        if times > 1:
            yield Disagreement(
                where=where, found=f"has epoch {epoch} {times} times in MLflow", remedy="none is needed for its score"
            )
    for epoch in sorted(row.curve.keys() | known.keys()):
        there, value = known.get(epoch), row.curve.get(epoch)
        if there is None and value is not None and math.isfinite(value):
            yield Disagreement(
                where=where,
                found=f"has val_dice of epoch {epoch} in Optuna and not in MLflow",
                remedy="repair=yes logs it",
                repair=methodcaller("log", run.run_id, {"val_dice": value}, epoch),
            )
        elif there != value:
            yield Disagreement(
                where=where,
                found=f"has val_dice {value} of epoch {epoch} in Optuna and {there} in MLflow",
                remedy="trust neither: train it again under another study name",
            )


def _strays(study: StoredStudy, recorded: RecordedStudy, driven: bool) -> Iterator[Disagreement]:
    """Runs under the study that are no trial's."""
    rows = {row.number: row for row in study.rows}
    for run in recorded.trials:
        row = rows.get(run.trial if run.trial is not None else -1)
        if run.deleted or (row is not None and row.run_id in run.names):
            continue
        if (row is None and driven) or (row is not None and row.run_id is None and row.state not in SETTLED):
            continue  # a driver died, or is, between making the run and noting it: whoever goes on finds it
        other = "which Optuna has not" if row is None else f"which has the run {row.run_id}"
        still_open = run.status in _OPEN
        yield Disagreement(
            where=f"run {run.run_id}",
            found=f"is {run.status} as trial {run.trial} of the study, {other}",
            remedy=f"mlflow runs delete --run-id {run.run_id}",
            repair=(methodcaller("end", run.run_id, "failed", "no trial of its study")) if still_open else None,
        )


def compare_workspace(
    study: StoredStudy, recorded: RecordedStudy, reader: RunReader, workspace: Path, *, driven: bool = False
) -> Iterator[Disagreement]:
    """The folders of a study's trials against its records; arguments as `compare_records`."""
    folders = {trial_folder(workspace, study.study, row.number, row.run_id): row for row in study.rows if row.run_id}
    runs = {name: run.run_id for run in recorded.trials if not run.deleted for name in run.names}
    for folder, row in folders.items():
        kept = checkpoint_folder(folder)
        if row.state in SETTLED and not driven and kept.exists():
            yield Disagreement(
                where=str(kept),
                found=f"holds checkpoints of trial {row.number}, which is {row.state}",
                remedy="remove it",
                repair=methodcaller("remove", kept),
            )
        if row.state in ("finished", "pruned"):
            yield from _model(row, folder, reader, runs.get(row.run_id or "none"))
    for folder in sorted((workspace.absolute() / "studies" / study.study).glob("trial_*")):
        name = folder.name.removesuffix(".checkpoints")
        prefix = name.rpartition("_")[2]
        if driven or folder.with_name(name) in folders or any(run.startswith(prefix) for run in recorded.others):
            continue
        what = "holds checkpoints" if name != folder.name else "is a trial's"
        yield Disagreement(
            where=str(folder),
            found=f"{what}, and of no trial that this storage has",
            remedy="remove it, unless a study of this name in another storage has it",
        )


def _model(row: TrialRow, folder: Path, reader: RunReader, run_id: str | None) -> Iterator[Disagreement]:
    here = (folder / MODEL).is_file()
    there = run_id is not None and reader.has_artifact(run_id, MODEL)
    if not here:
        yield Disagreement(
            where=str(folder),
            found=f"has no {MODEL}, and trial {row.number} is {row.state}",
            remedy="repair=yes fetches it from MLflow" if there else "train it again under another study name",
            repair=methodcaller("fetch", run_id, MODEL, folder) if there else None,
        )
    elif run_id is not None and not there:
        yield Disagreement(
            where=f"trial {row.number}",
            found=f"has a {MODEL} in {folder}, and its MLflow run {run_id} has none",
            remedy=f"mlflow artifacts log-artifact --run-id {run_id} --local-file {folder / MODEL}",
        )


def compare_outbox(workspace: Path, uri: str) -> Iterator[Disagreement]:
    """What commands of the workspace have still to tell the tracking store."""
    for outbox in Outboxes.of(workspace, uri).waiting():
        yield Disagreement(
            where=str(outbox.folder),
            found=f"holds {len(outbox)} operation(s) that MLflow was not told yet",
            remedy=f"python -m experiments.sync --workspace {workspace}",
        )


def compare_dataset(study: StoredStudy, workspace: Path) -> Iterator[Disagreement]:
    """The dataset of a study: whether it is there, and its records are those of its manifest."""
    folder = workspace / "datasets" / study.dataset_key
    remedy = f"delete {folder} and run convert"
    try:
        manifest = Manifest.load(folder)
        faults = record_faults(manifest)
    except UserError as error:
        faults, remedy = [str(error).rpartition("; ")[0]], str(error).rpartition("; ")[2].rstrip(".")
    else:
        if manifest.key != study.dataset_key:
            faults.insert(0, f"its manifest has the key {manifest.key[:12]}, and the study {study.dataset_key[:12]}")
    for fault in faults:
        yield Disagreement(where=str(folder), found=fault, remedy=remedy)
