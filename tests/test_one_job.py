import traceback
from pathlib import Path
from typing import Any

import pytest

from experiments import evaluate
from experiments.executors.local import LocalExecutor
from experiments.jobs.messages import Job
from experiments.jobs.one_job import JobFailed, run_job
from experiments.registry.models import FetchedModel
from seg.data.splits import DivisionSettings
from seg.errors import UserError
from tests.study_setting import make_manifest


def run_fake(folder: Path, behaviour: str, on_epoch: Any = None, last_epoch: int | None = None) -> dict[str, Any]:
    job = Job(name="training", task="train", folder=str(folder), arguments={"behaviour": behaviour})
    with LocalExecutor(1, tasks="tests.fake_tasks") as executor:
        return run_job(executor, job, on_epoch, last_epoch)


def test_the_result_comes_back_and_epochs_are_told(tmp_path: Path) -> None:
    epochs: list[int] = []
    result = run_fake(tmp_path, "ok", lambda report: epochs.append(report.epoch))
    assert result["best_epoch"] == 3
    assert epochs == [1, 2, 3]


def test_training_is_told_to_stop(tmp_path: Path) -> None:
    epochs: list[int] = []
    result = run_fake(tmp_path, "ok", lambda report: epochs.append(report.epoch), last_epoch=2)
    assert epochs == [1, 2]
    assert result["stop_reason"] == "pruned"


def test_a_wrong_request_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^batch_size must be at least 1, got 0\.$"):
        run_fake(tmp_path, "user_error")


def test_a_failure_names_the_log_and_keeps_the_process_traceback(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="training failed: RuntimeError: the task went wrong .*log.txt") as failed:
        run_fake(tmp_path, "raise")
    assert (tmp_path / "log.txt").is_file()
    assert "in _misbehave" in "".join(traceback.format_exception(failed.value))


def test_the_log_of_a_failed_evaluation_outlives_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []

    def fail(executor: Any, folder: Path, *rest: Any) -> None:
        folder.mkdir(parents=True)
        folders.append(folder)
        raise JobFailed("evaluation failed")

    model = FetchedModel(file=tmp_path / "model.keras", threshold=0.5, tta="none", image_size=64, run_id="run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(evaluate, "fetch_model", lambda *arguments: model)
    monkeypatch.setattr(evaluate.datasets, "prepare", lambda values, image_size, division: make_manifest(tmp_path))
    monkeypatch.setattr(evaluate, "trained_division", lambda *arguments: DivisionSettings())
    monkeypatch.setattr(evaluate, "evaluate", fail)
    with pytest.raises(JobFailed):
        evaluate.main([f"--workspace={tmp_path / 'workspace'}"])
    assert folders[0].parent == tmp_path / "workspace" / "runs"
    assert folders[0].is_dir()
