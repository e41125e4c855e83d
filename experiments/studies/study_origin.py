"""`StudyOrigin`: with what a study was made, kept beside its trials so that a report can say how to make it again."""

import argparse
import json
import os
import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.command_line.passwords import hide
from experiments.jobs.environment import installed_versions
from experiments.tracking import tracking_uri
from seg.errors import UserError
from seg.page import write_whole


@dataclass(frozen=True, kw_only=True)
class StudyOrigin:
    """Where a study comes from.

    Attributes:
        command: the line that makes it again, quoted for a shell; passwords are left out.
        versions: of Python and the packages that this project pins, by name.
        git_commit: of the code; empty outside a repository.
        machine: operating system, architecture and number of processors.
    """

    command: str
    versions: Mapping[str, str]
    git_commit: str
    machine: str

    @classmethod
    def here(cls, command: str, git_commit: str | None) -> "StudyOrigin":
        """With this process's packages, on this machine."""
        versions = {"python": platform.python_version(), **installed_versions()}
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
        return cls(command=command, versions=versions, git_commit=git_commit or "", machine=machine)

    def save(self, path: Path) -> None:
        """Writes the file whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "StudyOrigin":
        """Reads the file.

        Raises:
            UserError: if there is none, or it is damaged.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} must be there and whole, got: {error}; run the study's command again.") from None


def origin_file(workspace: Path, study: str, run_id: str) -> Path:
    """Where a study keeps its origin; the run's id tells studies of one name in several storages apart."""
    return workspace.absolute() / "studies" / study / f"study_{run_id[:8]}.json"


def command_line(verb: str, parser: argparse.ArgumentParser, values: argparse.Namespace, tracking: str | None) -> str:
    """The line that gives an entry point these options, quoted for a shell.

    Args:
        verb: the entry point.
        parser: its own.
        values: what it parsed; options that have their default are left out.
        tracking: MLFLOW_TRACKING_URI, if it is set.
    """
    words = ["python", "-m", f"experiments.{verb}"]
    for name, value in vars(values).items():
        if value != parser.get_default(name):
            words.append(f"--{name}={hide(str(value))}")
    line = shlex.join(words)
    return f"MLFLOW_TRACKING_URI={shlex.quote(tracking_uri.displayed(tracking))} {line}" if tracking else line
