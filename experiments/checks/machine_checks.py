"""What `doctor` looks at without TensorFlow: versions, disk, time zone, Optuna's storage and MLflow's store."""

import os
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from experiments.storage import storage_connection
from experiments.tracking import tracking_uri
from seg.errors import UserError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
LEAST_DISK, ENOUGH_DISK = 1.0, 10.0  # GiB: below the first nothing should start, below the second a study may stop
CLOCKS_APART = 5.0  # seconds
_BUILDS = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `doctor`.

    Attributes:
        name: what was looked at.
        status: ok; warning: works, and may surprise; failed: a study would fail, or compute something else.
        found: what is there.
        remedy: what to do about it; empty where all is well.
    """

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    remedy: str = ""


def check_versions(pins: list[Requirement] | None = None) -> list[Check]:
    """Python and the packages, against what this project was tested with."""
    wanted = _pins() if pins is None else pins
    missing, other = [], []
    for pin in wanted:
        found = next(filter(None, map(_installed, (pin.name, *_BUILDS.get(pin.name, ())))), None)
        if found is None:
            missing.append(pin.name)
        elif found not in pin.specifier:
            other.append(f"{pin.name} {found} instead of {str(pin.specifier).removeprefix('==')}")
    python = ".".join(map(str, sys.version_info[:3]))
    install = "pip install -e . in a fresh environment"
    if missing:
        return [Check(name="versions", status="failed", found=f"not installed: {', '.join(missing)}", remedy=install)]
    if other:
        return [
            Check(name="versions", status="warning", found="; ".join(other), remedy=f"not what is tested: {install}")
        ]
    return [Check(name="versions", status="ok", found=f"Python {python}, {len(wanted)} packages as pinned")]


def _pins() -> list[Requirement]:
    if PROJECT.is_file():
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        return [Requirement(line) for line in project["dependencies"]]
    required = [Requirement(line) for line in metadata.requires("seg") or ()]
    return [pin for pin in required if pin.marker is None]  # the others belong to extras


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_workspace(workspace: Path) -> list[Check]:
    """Whether the folder of datasets and trials can be written, and how much room it has."""
    place = workspace.absolute()
    if refusal := _cannot_write(place):
        remedy = "choose another --workspace, or give yourself the right to write there"
        return [Check(name="workspace", status="failed", found=f"{place}: {refusal}", remedy=remedy)]
    free = shutil.disk_usage(_existing(place)).free / 2**30
    found = f"{free:.1f} GiB free"
    disk = Check(name="disk", status="ok", found=found)
    if free < ENOUGH_DISK:
        status: Literal["failed", "warning"] = "failed" if free < LEAST_DISK else "warning"
        disk = Check(
            name="disk", status=status, found=found, remedy="make room: each trial keeps a model and checkpoints"
        )
    return [Check(name="workspace", status="ok", found=f"{place} can be written"), disk]


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _cannot_write(folder: Path) -> str:
    """Why a file cannot be written, renamed or removed in a folder, or where it will be made; empty if it can."""
    place = _existing(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as probe:
            partial = Path(probe) / "partial"
            partial.write_bytes(b"written")
            partial.replace(Path(probe) / "whole")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_storage(url: str) -> list[Check]:
    """Whether Optuna's storage answers and can be written, and whether it agrees on what time it is."""
    try:
        parsed = storage_connection.parse_url(url)
        shown = storage_connection.displayed(url)
        file = Path(str(parsed.database)).absolute() if parsed.get_backend_name() == "sqlite" else None
        if file is not None and not file.exists():
            if not file.parent.is_dir() or (refusal := _cannot_write(file.parent)):
                why = refusal if file.parent.is_dir() else "no such folder"
                raise UserError(f"storage {shown} cannot be made in {file.parent} ({why}); choose another --storage.")
            return [Check(name="storage", status="ok", found=f"{shown} will be made by the first study"), _zone()]
        state = storage_connection.try_out(url)
    except UserError as error:
        return [_failed("storage", error), _zone()]
    return [Check(name="storage", status="ok", found=f"{shown} can be read and written"), _zone(state)]


def _zone(state: storage_connection.DatabaseClock | None = None) -> Check:
    """The time zone of this machine, and the one of the storage's sessions, where it has any."""
    here = f"{time.strftime('%Z')} (UTC{time.strftime('%z')}) here"
    if state is None:
        return Check(name="time zone", status="ok", found=here)
    found = f"{here}, {state.zone} in the storage, clocks {abs(state.ahead):.1f} s apart"
    if abs(state.ahead) > CLOCKS_APART:
        return Check(name="time zone", status="warning", found=found, remedy="set both clocks by NTP")
    if state.zone.upper() not in ("UTC", "ETC/UTC", "GMT", "ETC/GMT", "ZULU"):
        # Optuna compares its heartbeats, in the session's zone, with UTC: fresh ones of a worker look hours old.
        remedy = "ALTER ROLE … SET timezone TO 'UTC' there: else Optuna's heartbeats look stale to other workers"
        return Check(name="time zone", status="warning", found=found, remedy=remedy)
    return Check(name="time zone", status="ok", found=found)


def check_tracking(uri: str | None) -> list[Check]:
    """Whether MLflow's store answers, and takes a run with a file."""
    try:
        resolved = tracking_uri.resolve(uri)
        shown = tracking_uri.displayed(resolved)
        tracking_uri.probe(resolved)
        file = tracking_uri.sqlite_path(resolved)
        if file is not None and not file.exists():
            if refusal := _cannot_write(file.parent):
                raise UserError(f"{file.parent} must be writable for {shown}, got: {refusal}; choose another.")
            return [Check(name="tracking", status="ok", found=f"{shown} will be made by the first run")]
        from experiments.tracking.tracker import Tracker

        Tracker(resolved, None).try_out()
    except UserError as error:
        return [_failed("tracking", error)]
    return [Check(name="tracking", status="ok", found=f"{shown} takes runs and files")]


def _failed(name: str, error: UserError) -> Check:
    """The last clause of a message is its remedy."""
    found, semicolon, remedy = str(error).rpartition("; ")
    if not semicolon:
        found, remedy = str(error), "check address, user, password and rights"
    return Check(name=name, status="failed", found=found, remedy=remedy.rstrip("."))


def check_devices(gpus: list[str], found_by_tensorflow: int | None) -> list[Check]:
    """The GPUs that the driver lists against those that TensorFlow finds; None: it did not start."""
    cores = os.cpu_count() or 1
    cores_here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    found = f"{len(gpus)} GPU(s), {cores_here} of {cores} CPU core(s)"
    if found_by_tensorflow is not None and found_by_tensorflow < len(gpus):
        remedy = "pip install -e '.[gpu]', and an NVIDIA driver that it takes"
        found += f"; TensorFlow finds {found_by_tensorflow} of the GPUs"
        return [Check(name="devices", status="failed", found=found, remedy=remedy)]
    return [Check(name="devices", status="ok", found=found)]
