"""What `verify` may change, with the study held against drivers."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from experiments.storage.stored_study import TrialRow
from experiments.storage.study_store import StudyStore
from experiments.tracking.tracker import State, Tracker

REASON = "left behind by a driver that died"


class Repairs:
    """Writes to both records and the workspace.

    Args:
        store: the study, held.
        tracker: where its runs are.
    """

    def __init__(self, store: StudyStore, tracker: Tracker) -> None:
        self._store = store
        self._tracker = tracker

    def end(self, run_id: str, state: str, reason: str) -> None:
        """Gives a run the state of its trial."""
        self._tracker.end(run_id, cast(State, state), reason)

    def let_wait(self, row: TrialRow, run_id: str | None) -> None:
        """Queues a trial that nobody runs, as the next driver would; its run first."""
        if row.config is None:
            self._store.fail(row.number, REASON)  # before it was settled what it should train
            return
        if run_id is not None:
            self._tracker.end(run_id, "waiting", REASON)
        self._store.requeue(row.number, row.deaths)

    def log(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers that a run lacks."""
        self._tracker.log_metrics(run_id, metrics, step)

    def remove(self, folder: Path) -> None:
        """Removes checkpoints that nobody needs."""
        shutil.rmtree(folder)

    def fetch(self, run_id: str, path: str, folder: Path) -> None:
        """Puts an artifact of a run into its trial's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial.") as partial:
            self._tracker.download(run_id, path, Path(partial)).replace(folder / path)
