"""`StudyResult`: what a study knows once its trials are over."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from experiments.jobs.one_job import JobFailed
from experiments.storage.stored_study import TrialRow
from experiments.studies import comparison


def trial_folder(workspace: Path, study: str, number: int, run_id: str) -> Path:
    """Where a trial leaves its files."""
    # Numbers and names begin anew with another storage; run ids never do, so that no study meets another's files.
    return workspace.absolute() / "studies" / study / f"trial_{number:04d}_{run_id[:8]}"


def checkpoint_folder(folder: Path) -> Path:
    """Where a trial keeps what it takes to go on: beside its folder, whose files all go to MLflow."""
    return folder.with_name(f"{folder.name}.checkpoints")


def final_folder(trial: Path) -> Path:
    """Where the evaluation of a trial leaves its files, beside the trial's own."""
    return trial.with_name(trial.name.replace("trial", "final"))


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The outcome of a study.

    Attributes:
        study: its name.
        run_id: of its MLflow run, which is left open for what else belongs to it (plots, the final evaluation).
        workspace: holds the trials' folders.
        rows: every trial, by number, for the comparison table.
        ran: trials that this command trained, failed ones included; 0 if the study was already complete.
    """

    study: str
    run_id: str
    workspace: Path
    rows: tuple[TrialRow, ...]
    ran: int

    @property
    def best(self) -> TrialRow | None:
        """The best trial of the best arm (`experiments.studies.comparison.winner`); None if none finished."""
        return comparison.winner(self.rows)

    def winner(self) -> TrialRow:
        """The best trial.

        Raises:
            JobFailed: if no trial finished.
        """
        if self.best is None:
            raise JobFailed(f"study '{self.study}' has no finished trial; read the reasons above, then run it again.")
        return self.best

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state: finished, pruned, failed."""
        return dict(Counter(row.state for row in self.rows))

    def folder(self, row: TrialRow) -> Path:
        """The folder of a trial of this study that has a run."""
        assert row.run_id is not None
        return trial_folder(self.workspace, self.study, row.number, row.run_id)
