"""Writes the card of a version that `main` registered, and puts it where people look: its run and its description."""

import argparse
import json
import platform
import shlex
import shutil
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from experiments.card.content import Card
from experiments.card.pictures import draw_calibration, draw_threshold_curve
from experiments.card.render import as_markdown, write_card
from experiments.card.sections import Subject, build_card
from experiments.command_line import datasets
from experiments.command_line.code_version import git_commit
from experiments.command_line.passwords import hide
from experiments.registry.registry import Registry
from experiments.studies.finish import Finished
from experiments.tracking.tracker import Tracker
from seg.data.licence import stated_licences
from seg.data.manifest import Manifest

FOLDER = "card"  # in the run's artifacts
_PACKAGES = ("tensorflow", "keras", "mlflow", "optuna", "numpy", "opencv-python-headless", "pycocotools")
_ESSENCE = ("Intended use and limits", "Scores", "By size", "Promotion")


def publish_card(
    finished: Finished, study_run: str, manifest: Manifest, audited: Path, tracker: Tracker, values: argparse.Namespace
) -> Card:
    """Writes the card into the folder of the final evaluation and uploads it.

    Args:
        finished: what became of the study's winner.
        study_run: id of the study's run.
        audited: folder of audit.json.
        values: the options of `main`.
    """
    folder = finished.folder.with_name(finished.folder.name.replace("final", FOLDER))
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call: its pictures may be others
    folder.mkdir(parents=True)
    if finished.evaluation["threshold"] is not None:
        draw_threshold_curve(finished.evaluation, folder / "threshold_curve.png")
    draw_calibration(finished.evaluation, folder / "calibration.png")
    subject = Subject(
        version=finished.version,
        decision=finished.decision,
        evaluation=finished.evaluation,
        folder=finished.folder,
        manifest=manifest,
        licences=stated_licences(datasets.export_folder(values)),
        audit=_read_audit(audited),
        config=finished.config,
        command=command("main", values),
        versions=versions(),
        study_run=study_run,
    )
    card = build_card(subject, folder)
    write_card(card, folder)
    tracker.log_folder(finished.version.run_id, folder, FOLDER)
    Registry(tracker.uri).describe(finished.version, essence(card, finished.version.run_id))
    return card


def command(verb: str, values: argparse.Namespace) -> str:
    """The command line with every option in effect; passwords of addresses are left out."""
    options = {name: hide(str(value)) for name, value in vars(values).items()}
    words = ["python", "-m", f"experiments.{verb}", *(f"--{name}={value}" for name, value in options.items())]
    return shlex.join(words)


def versions() -> dict[str, str]:
    """Of Python, the libraries and this project."""
    found = {"Python": platform.python_version()}
    found |= {package: installed_version(package) for package in _PACKAGES}
    return found | {"git commit": git_commit() or "not known"}


def essence(card: Card, run_id: str) -> str:
    """The first parts of the card, for the description of the version, and where the whole lies."""
    sections = tuple(section for section in card.sections if section.title in _ESSENCE)
    short = Card(
        title=card.title,
        verdict=card.verdict,
        severity=card.severity,
        facts=card.facts,
        sections=sections,
        footer=card.footer,
    )
    place = f"runs:/{run_id}/{FOLDER}/card.html"
    return f"{as_markdown(short)}\nThe whole card: `mlflow artifacts download -u {place}`\n"


def _read_audit(folder: Path) -> Mapping[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
