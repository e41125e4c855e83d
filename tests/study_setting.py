"""A study of fake tasks in a folder: what the driver's tests share. As a program it is a driver that can be killed.

python -m tests.study_setting FOLDER TRIALS SLOTS [TRACKING_URI [STORAGE LEASE_SECONDS [OBJECTIVE]]]
"""

import io
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna

from experiments.command_line import entry
from experiments.command_line.interrupts import EXIT_CODE, Interrupted
from experiments.command_line.progress import Progress
from experiments.executors.local import LocalExecutor
from experiments.storage.study_hold import hold_command
from experiments.studies.driver import run_study
from experiments.studies.search import SearchSpace
from experiments.studies.settlement import Limits
from experiments.studies.study_result import StudyResult
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from tests.recording_tracker import RecordingTracker


def make_manifest(folder: Path, key: str = "a" * 64, name: str = "demo", split: str = "official") -> Manifest:
    return Manifest(
        folder=folder / "dataset",
        key=key,
        name=name,
        image_size=64,
        split=split,
        settings={},
        categories=[],
        splits={},
        left_out=[],
    )


def make_space(sampler: str = "grid", objective: str = "dice", **fields: Any) -> SearchSpace:
    base = TrainConfig(**{"image_size": 64, "depth": 3, "epochs": 2} | fields)
    return SearchSpace(base=base, losses=("bce", "dice"), filters=(8, 16), sampler=sampler, objective=objective)


class Setting:
    """A folder with a storage, a workspace and a tracker's record."""

    def __init__(self, folder: Path, study: str = "losses") -> None:
        self.folder = folder
        self.study = study
        self.storage = f"sqlite:///{folder / 'optuna.db'}"
        self.tracker = RecordingTracker(folder / "calls.jsonl")
        self.output = io.StringIO()

    def plan(self, behaviours: dict[int, str]) -> None:
        """What trials shall do, by number."""
        folder = self.folder / "studies" / self.study
        folder.mkdir(parents=True, exist_ok=True)
        content = {f"trial_{number:04d}": behaviour for number, behaviour in behaviours.items()}
        (folder / "behaviour.json").write_text(json.dumps(content))

    def run(self, trials: int, *, space: SearchSpace | None = None, slots: int = 1, **changes: Any) -> StudyResult:
        with LocalExecutor(slots, tasks="tests.fake_tasks") as executor:
            return run_study(
                study=self.study,
                space=space or make_space(),
                trials=trials,
                **{"manifest": make_manifest(self.folder), "workspace": self.folder, "storage": self.storage} | changes,
                executor=executor,
                tracker=self.tracker,
                progress=Progress(self.output),
            )

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = optuna.storages.RDBStorage(self.storage)
        trials = optuna.load_study(study_name=self.study, storage=storage).trials
        storage.engine.dispose()
        return trials

    def optuna_states(self) -> list[str]:
        return [trial.state.name for trial in self.optuna_trials()]


def main(
    folder: str,
    trials: str,
    slots: str,
    tracking_uri: str = "",
    storage: str = "",
    seconds: str = "60",
    objective: str = "dice",
) -> int:
    setting = Setting(Path(folder))
    setting.storage = storage or setting.storage
    setting.output = sys.stderr
    limits = Limits(retries=1000) if tracking_uri else None
    if tracking_uri:
        from experiments.tracking.tracker import Tracker

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "survival")
        setting.tracker = Tracker(tracking_uri, name, setting.folder, f"study_{setting.study}")
    space = make_space(objective=objective, epochs=8 if tracking_uri or storage else 2)
    try:
        with (
            hold_command(setting.storage, setting.study, float(seconds)) as command,
            setting.tracker if tracking_uri else nullcontext(),
        ):
            result = setting.run(int(trials), slots=int(slots), limits=limits, space=space, lease=command.lease)
            if elsewhere := command.ended_elsewhere(result.rows):
                print(elsewhere)
            elif tracking_uri:
                setting.tracker.end(result.run_id, "finished")
    except Interrupted:
        return EXIT_CODE
    return entry.done(setting.tracker) if tracking_uri else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
