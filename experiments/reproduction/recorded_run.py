"""`RecordedRun`: a training as MLflow recorded it, checked; and its dataset, found or made again."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from experiments.command_line import datasets
from experiments.command_line.options import FIELDS, OPTIONS
from experiments.jobs.environment import ENVIRONMENT, Environment
from experiments.jobs.tasks import RESULT
from experiments.tracking.run_description import RunRecord
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.classes import BINARY
from seg.data.manifest import MANIFEST, SPLITS, Manifest
from seg.data.splits import DivisionSettings
from seg.errors import UserError
from seg.inference import MODEL
from seg.training.result import EpochReport, TrainResult

STOP_REASONS = ("epochs", "early_stopping", "pruned")
_CONVERSION = {"categories": str, "crowds": str, "exif": str, "overlaps": str}
_DIVISION = {"group_pattern": str, "group_column": str, "split_seed": int}  # there where the split is not the official


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A finished training.

    Attributes:
        record: of the run that trained: of a study, its best trial's.
        config: its configuration; in place of `precision=auto` the number format that it meant, where that is known.
        assumed: fields of the configuration that the run does not have, and that got their defaults.
        unknown: parameters of the run that this version of the project does not know, with their values.
        dataset_key: of its dataset.
        result: what training returned.
        environment: None where the run has none: it was made by an older version of this project.
        model: its weights.
    """

    record: RunRecord
    config: TrainConfig
    assumed: tuple[str, ...]
    unknown: Mapping[str, str]
    dataset_key: str
    result: TrainResult
    environment: Environment | None
    model: Path


def find_run(run_id: str, tracker: Tracker, folder: Path) -> RecordedRun:
    """Reads a training from MLflow.

    Args:
        run_id: of a `train` or `reproduce` run, of a trial, or of a study, which means its best trial.
        tracker: of the store that has it.
        folder: what is downloaded goes here.

    Raises:
        UserError: if there is no such run, it did not finish, or what it says cannot be read.
    """
    if not run_id:
        raise UserError("run must be the id of an MLflow run, got none; MLflow's page shows it.")
    record = tracker.record(run_id)
    if "study" in record.tags and "trial" not in record.tags:
        best = tracker.best_trial(run_id)
        if best is None:
            raise UserError(f"study run {run_id} must have a finished trial, got none; give the id of a trial's run.")
        record = tracker.record(best)
    if record.status != "FINISHED" and not (record.status == "KILLED" and record.tags.get("pruned") == "true"):
        raise UserError(f"run {record.run_id} must have finished, and is {record.status}; choose one that has.")
    result = read_result(tracker.download(record.run_id, RESULT, folder).read_text(encoding="utf-8", errors="replace"))
    try:
        text = tracker.download(record.run_id, ENVIRONMENT, folder).read_text(encoding="utf-8", errors="replace")
    except UserError:
        text = None
    environment = None if text is None else Environment.read(text)
    config = read_config(record.params)
    if config.precision == "auto" and environment is not None and environment.precision:
        config = replace(config, precision=environment.precision)
    return RecordedRun(
        record=record,
        config=config,
        assumed=tuple(name for name in FIELDS if name not in record.params),
        unknown={name: value for name, value in record.params.items() if name not in OPTIONS},
        dataset_key=_key(record.tags),
        result=result,
        environment=environment,
        model=tracker.download(record.run_id, MODEL, folder),
    )


def read_config(params: Mapping[str, str]) -> TrainConfig:
    """The configuration in a run's parameters; a field that is not there gets its default.

    Raises:
        UserError: if a value is none.
    """
    found = {}
    for name, option in FIELDS.items():
        if name in params:
            try:
                found[name] = option.type(params[name])
            except ValueError:
                wanted = f"parameter {name} of the run must be of type {option.type.__name__}"
                raise UserError(f"{wanted}, got '{params[name][:60]}'; choose another run.") from None
    return TrainConfig(**found)


def read_result(text: str) -> TrainResult:
    """What a training left as result.json.

    Raises:
        UserError: if the text is anything else.
    """
    content = _object(text, RESULT)
    content.pop("cost", None)  # it differs from run to run, and older runs have none
    known = {field.name for field in fields(TrainResult)}
    reports = content.get("history")
    if set(content) != known or not isinstance(reports, list) or not reports:
        raise _unreadable(RESULT, f"the keys {', '.join(content)[:80]}")
    history = tuple(_read_report(report, number) for number, report in enumerate(reports, start=1))
    for name in ("best_epoch", "parameters", "replicas", "batch_size"):
        if not _is_count(content[name]) or content[name] < 1:
            raise _unreadable(RESULT, f"{name} {str(content[name])[:60]}")
    if content["best_epoch"] > len(history) or not _is_number(content["val_dice"]):
        raise _unreadable(RESULT, "a best epoch that it has no score of")
    if content["stop_reason"] not in STOP_REASONS or content["model"] != MODEL:
        raise _unreadable(RESULT, "a stop_reason or model that training does not write")
    return TrainResult(**content | {"history": history})


def _read_report(report: Any, number: int) -> EpochReport:
    known = {field.name for field in fields(EpochReport)}
    if not isinstance(report, dict) or set(report) != known or not all(map(_is_number, report.values())):
        raise _unreadable(RESULT, f"an epoch {number} without its measurements")
    if not _is_count(report["epoch"]) or report["epoch"] != number:
        raise _unreadable(RESULT, f"epoch {str(report['epoch'])[:60]} in place {number}")
    return EpochReport(**report)


def dataset_of(recorded: RecordedRun, values: argparse.Namespace) -> Manifest:
    """The dataset that a run trained on: from the workspace, else converted again as it was.

    Args:
        recorded: the run.
        values: the options `workspace`, `data` and `additional`.

    Raises:
        UserError: if `data` is not what the run's dataset was made of; the message says what differs.
    """
    folder = Path(values.workspace) / "datasets" / recorded.dataset_key
    if (folder / MANIFEST).exists():
        manifest = Manifest.load(folder)
        if manifest.key != recorded.dataset_key:
            raise UserError(f"{folder} must hold the dataset of that key, got {manifest.key}; delete it.")
        return manifest
    name = recorded.record.dataset
    if values.data == datasets.DEMO and name not in (datasets.DEMO, ""):
        raise UserError(
            f"the dataset {recorded.dataset_key} of the run ('{name}') must be in {folder.parent} or be made again, "
            "and is not there; give data, the folder that it was converted from."
        )
    profile = _object(recorded.record.profile, "the dataset of the run") if recorded.record.profile else {}
    settings, division = read_conversion(profile)
    again = argparse.Namespace(**vars(values) | settings)
    manifest = datasets.prepare(again, recorded.config.image_size, division)
    if manifest.key != recorded.dataset_key:
        raise UserError(
            f"the dataset must have the run's key, {recorded.dataset_key}, got {manifest.key} from {values.data}: "
            f"{'; '.join(unlike(profile, manifest))}. Give data, and additional if the run had corrections, as they "
            "were then."
        )
    return manifest


def read_conversion(profile: Mapping[str, Any]) -> tuple[dict[str, Any], DivisionSettings]:
    """How a run's dataset was converted: options of `convert`, and how its images were divided.

    Raises:
        UserError: if the profile of the dataset does not say it.
    """
    settings, split = profile.get("settings"), profile.get("split")
    kinds = _CONVERSION | (_DIVISION if split != "official" else {})
    classes = settings.get("classes", BINARY) if isinstance(settings, dict) else None  # a binary dataset has none
    if (
        not isinstance(settings, dict)
        or not isinstance(split, str)
        or not isinstance(classes, str)
        or any(not isinstance(settings.get(name), kind) for name, kind in kinds.items())
    ):
        raise UserError(
            "the run must say how its dataset was converted, and does not in a way that can be read; put the dataset "
            "into the workspace (convert), or choose another run."
        )
    # With its key equal, the dataset has the same broken rules: `skip` leaves out what was left out then.
    found = {name: settings[name] for name in _CONVERSION} | {"on_bad": "skip", "classes": classes}
    if split == "official":
        return found, DivisionSettings()
    return found, DivisionSettings(
        split, settings["group_pattern"], settings["group_column"], int(settings["split_seed"])
    )


def unlike(profile: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """In what a dataset differs from the recorded one, for people."""
    found = []
    for split in SPLITS:
        then = profile.get(split)
        now = manifest.splits[split]
        if not isinstance(then, dict):
            continue
        if then.get("examples") != now.examples:
            found.append(f"{split} has {now.examples} images and had {str(then.get('examples'))[:20]}")
        elif then.get("key") != now.key:
            found.append(f"the images or masks of {split} are others")
    for name, value in profile["settings"].items():
        if manifest.settings.get(name) != value:
            found.append(f"{str(name)[:40]} is {manifest.settings.get(name)} and was {str(value)[:60]}")
    return found or ["images and masks are the same, so the annotation files or this project's conversion changed"]


def _key(tags: Mapping[str, str]) -> str:
    key = tags.get("dataset_key", "")
    # It becomes the name of a folder.
    if not key.replace("-", "").isalnum() or not key.isascii():
        raise UserError(f"tag dataset_key of the run must be a dataset's key, got '{key[:60]}'; choose another run.")
    return key


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise _unreadable(what, "no JSON") from None
    if not isinstance(content, dict):
        raise _unreadable(what, "no object")
    return content


def _unreadable(what: str, got: str) -> UserError:
    return UserError(f"{what} must be as training wrote it, got {got}; choose a run whose record is whole.")


def _is_number(value: Any) -> bool:
    # A whole number may be too large for a float.
    return (
        isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
