"""What follows a study: its own run is ended whatever happens, and no score is ever another study's."""

import importlib
import json
import os
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from experiments.jobs.one_job import JobFailed
from experiments.jobs.tasks import EVALUATION_FORMAT
from experiments.main import main
from experiments.registry.registry import Registry
from experiments.storage.stored_study import StoredStudy, TestUse, TrialRow
from experiments.studies import final_test
from experiments.studies import finish as finish_module
from experiments.studies.final_test import check_scored_alike, score_metrics, score_on_test_once
from experiments.studies.study_result import StudyResult, final_folder
from experiments.tracking.delivery import NotDelivered
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.appearance import Appearance
from seg.data.manifest import Manifest
from seg.errors import UserError
from tests.recording_tracker import RecordingTracker
from tests.study_setting import make_manifest, make_space
from tests.tiny import write_tiny


def make_result(workspace: Path, trial_run: str = "0123456789", study_run: str = "parent") -> StudyResult:
    row = TrialRow(
        number=3, state="finished", config=TrainConfig(), val_dice=0.5, run_id=trial_run, reason="", seconds=1.0
    )
    return StudyResult(study="unet", run_id=study_run, workspace=workspace, rows=(row,), ran=1)


def test_metrics_have_the_names_of_the_protocol() -> None:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    evaluation = {
        "threshold": 0.45,
        "scores": {"dice": interval, "dice_own_size": interval},
        "baselines": {"all_background": 0.1},
    }
    assert score_metrics(evaluation, "test") == {
        "test_threshold": 0.45,
        "test_dice": 0.5,
        "test_dice_low": 0.4,
        "test_dice_high": 0.6,
        "test_dice_own_size": 0.5,
        "test_dice_own_size_low": 0.4,
        "test_dice_own_size_high": 0.6,
        "test_baseline_all_background": 0.1,
    }
    # val_dice is the score during training, at threshold 0.5.
    validation = score_metrics(evaluation, "val")
    assert "val_dice" not in validation
    assert (validation["val_dice_tuned"], validation["val_dice_tuned_high"]) == (0.5, 0.6)


def test_a_trial_of_the_same_number_in_another_storage_has_another_folder(tmp_path: Path) -> None:
    one, other = make_result(tmp_path, "0123456789"), make_result(tmp_path, "fedcba9876")
    assert one.folder(one.winner()) == tmp_path / "studies" / "unet" / "trial_0003_01234567"
    assert other.folder(other.winner()) == tmp_path / "studies" / "unet" / "trial_0003_fedcba98"


def test_a_study_without_a_finished_trial_has_no_winner(tmp_path: Path) -> None:
    result = StudyResult(study="unet", run_id="parent", workspace=tmp_path, rows=(), ran=0)
    with pytest.raises(JobFailed, match="study 'unet' has no finished trial"):
        result.winner()


@pytest.mark.parametrize("name", ["a/b", "", "a:b"])
def test_a_name_that_cannot_be_registered_is_refused_before_anything_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.main.Tracker", None)  # calling it would be a TypeError
    with pytest.raises(UserError, match="model_name must be without"):
        main([f"--model_name={name}"])


@pytest.mark.parametrize("verb", ["main", "study"])
def test_the_studys_run_fails_with_its_report(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*arguments: Any) -> None:
        raise RuntimeError("no room for a plot")

    run_id = prepare(verb, tmp_path, monkeypatch)
    monkeypatch.setattr(f"experiments.{verb}.publish_study", break_down)
    with pytest.raises(RuntimeError, match="no room for a plot"):
        importlib.import_module(f"experiments.{verb}").main([])
    run = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run_id)
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "RuntimeError: no room for a plot")


@pytest.mark.parametrize(
    ("answers", "ends", "status"), [(False, NotDelivered, "SCHEDULED"), (True, MlflowException, "FAILED")]
)
def test_a_model_is_registered_when_mlflow_answers_again(
    answers: bool, ends: type[Exception], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*arguments: Any) -> None:
        raise MlflowException("API request to http://host failed")

    run_id = prepare("main", tmp_path, monkeypatch)
    (tmp_path / "workspace" / "audits" / ("a" * 64)).mkdir(parents=True)
    monkeypatch.setattr("experiments.main.publish_study", lambda *arguments: None)
    monkeypatch.setattr("experiments.main.finish", break_down)
    monkeypatch.setattr("experiments.tracking.tracker.answers", lambda uri: answers)
    with pytest.raises(ends, match="MLflow must answer for what is left to do|API request to http://host failed"):
        main([])
    run = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run_id)
    assert run.info.status == status


@pytest.mark.parametrize("verb", ["main", "study"])
def test_who_leaves_the_end_to_another_asks_what_is_left_when_it_was_told(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished: list[bool] = []

    def finish(tracker: Tracker, *error: object) -> None:
        finished.append(True)
        tracker._transport.finish()

    prepare(verb, tmp_path, monkeypatch)
    monkeypatch.setattr("experiments.storage.study_hold.Command.ended_elsewhere", lambda *arguments: "left to another")
    monkeypatch.setattr("experiments.tracking.tracker.Tracker.__exit__", finish)
    monkeypatch.setattr("experiments.command_line.entry.done", lambda tracker: len(finished))
    assert importlib.import_module(f"experiments.{verb}").main([]) == 1
    assert capsys.readouterr().out.endswith("left to another\n")


def test_a_server_that_is_away_is_not_asked_for_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*arguments: Any) -> None:
        raise MlflowException("API request to http://host failed")

    prepare("main", tmp_path, monkeypatch)
    monkeypatch.setattr("experiments.storage.study_hold.Command.ended_elsewhere", lambda *arguments: "left to another")
    monkeypatch.setattr("experiments.main.check_contender", break_down)
    with pytest.raises(MlflowException):
        main([])
    monkeypatch.setattr("experiments.main.answers", lambda uri: False)
    assert main([]) == 0


def prepare(verb: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has a verb find its study done, in a folder; returns the study's run."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    manifest = make_manifest(folder)
    run_id = Tracker(uri, None).start_study("unet", {}, manifest)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    module = f"experiments.{verb}"
    monkeypatch.setattr("experiments.command_line.datasets.prepare", lambda values, image_size: manifest)
    monkeypatch.setattr("experiments.audit.report", lambda *arguments: [])
    monkeypatch.setattr(f"{module}.open_executor", lambda *arguments: nullcontext())
    monkeypatch.setattr(f"{module}.conduct", lambda *arguments, **lease: make_result(folder, study_run=run_id))
    return run_id


def test_scores_of_an_older_format_or_of_other_images_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_tiny(tmp_path / "tiny")
    monkeypatch.setattr(final_test, "evaluate", lambda *arguments: {"anew": True})
    executor: Any = None
    known = {"format": EVALUATION_FORMAT, "split_key": manifest.splits["test"].key, "tta": "none"}
    known["largest_component"] = "no"

    def scores() -> dict[str, Any]:
        return final_test._evaluate_once(executor, tmp_path, tmp_path / "model.keras", manifest, "none", "no", None)

    assert scores() == {"anew": True}
    for content in ("{", *(json.dumps(known | {name: "other"}) for name in known)):
        (tmp_path / "evaluation.json").write_text(content)
        assert scores() == {"anew": True}
    (tmp_path / "evaluation.json").write_text(json.dumps(known))
    assert scores() == known


class TestScoredOnce:
    """The test scores of a study's trial 3, with a fake evaluation."""

    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Manifest:
        return write_tiny(tmp_path / "tiny")

    @pytest.fixture
    def evaluated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """What evaluations were asked for: threshold, tta, largest_component and the registered threshold."""
        asked: list[tuple[Any, ...]] = []

        def evaluate(executor: Any, folder: Path, model: Path, manifest: Any, split: str, *how: Any) -> dict[str, Any]:
            asked.append(how)
            folder.mkdir(parents=True, exist_ok=True)
            return {"threshold": 0.5, "scores": {}, "baselines": {}}

        result = make_result(tmp_path)
        (result.folder(result.rows[0])).mkdir(parents=True)
        (result.folder(result.rows[0]) / "model.keras").touch()
        monkeypatch.setattr(final_test, "evaluate", evaluate)
        monkeypatch.setattr(final_test, "note_test_use", lambda *arguments: None)
        monkeypatch.setattr(final_test, "read_study", lambda storage, study: self.stored(result))
        return asked

    def stored(self, result: StudyResult) -> StoredStudy:
        return StoredStudy(
            study="unet",
            dataset_key="tiny-0",
            dataset_name="tiny",
            split="official",
            sampler="grid",
            settings={},
            run_id="parent",
            rows=result.rows,
            test_uses=(TestUse(trial=3, at="2026-01-02T03:04:05+00:00"),),
        )

    def evaluation(self, folder: Path, **content: Any) -> None:
        result = make_result(folder)
        final = final_folder(result.folder(result.rows[0]))
        final.mkdir(parents=True, exist_ok=True)
        scores = {"threshold": 0.5, "scores": {"dice": {"mean": 0.7, "low": 0.6, "high": 0.8}}, "baselines": {}}
        (final / "evaluation.json").write_text(json.dumps({"format": EVALUATION_FORMAT} | scores | content))

    def score(self, folder: Path, manifest: Manifest, tta: str, largest_component: str) -> None:
        tracker: Any = RecordingTracker(folder / "calls.jsonl")
        executor: Any = None
        score_on_test_once(make_result(folder), manifest, tracker, executor, "storage", tta, largest_component)

    def test_a_comparisons_winner_is_scored_as_asked(
        self, tmp_path: Path, manifest: Manifest, evaluated: list[tuple[Any, ...]]
    ) -> None:
        self.score(tmp_path, manifest, "flips", "yes")  # the use was cut short: there are no scores
        assert evaluated == [(None, "flips", "yes", None)]

    def test_scores_of_an_older_format_are_made_anew_and_others_stay(
        self, tmp_path: Path, manifest: Manifest, evaluated: list[tuple[Any, ...]]
    ) -> None:
        self.evaluation(tmp_path)
        self.score(tmp_path, manifest, "none", "no")
        assert evaluated == []
        self.evaluation(tmp_path, format=EVALUATION_FORMAT - 1)
        self.score(tmp_path, manifest, "none", "no")
        assert evaluated == [(None, "none", "no", None)]

    def test_scores_that_were_not_logged_before_it_ended_are_logged(
        self, tmp_path: Path, manifest: Manifest, evaluated: list[tuple[Any, ...]]
    ) -> None:
        self.evaluation(tmp_path)
        self.score(tmp_path, manifest, "none", "no")
        assert evaluated == []
        logged = RecordingTracker(tmp_path / "calls.jsonl").calls("log_metrics")
        assert [call["run_id"] for call in logged] == [make_result(tmp_path).rows[0].run_id, "parent"]
        assert {call["metrics"]["test_dice"] for call in logged} == {0.7}

    def test_a_trial_that_the_comparison_left_out_since_keeps_its_scores(
        self, tmp_path: Path, manifest: Manifest, evaluated: list[tuple[Any, ...]]
    ) -> None:
        self.evaluation(tmp_path)
        result = make_result(tmp_path)
        others = replace(result, rows=(replace(result.rows[0], number=4),))
        tracker: Any = RecordingTracker(tmp_path / "calls.jsonl")
        executor: Any = None
        score_on_test_once(others, manifest, tracker, executor, "storage", "none", "no")
        assert evaluated == []

    @pytest.mark.usefixtures("evaluated")
    def test_another_tta_than_that_of_the_scores_is_refused(self, tmp_path: Path) -> None:
        check_scored_alike("storage", "unet", tmp_path, "flips", "no")  # no scores yet
        self.evaluation(tmp_path, tta="none", largest_component="yes")
        check_scored_alike("storage", "unet", tmp_path, "none", "yes")
        with pytest.raises(
            UserError, match="tta must stay none, with which trial 3 of study 'unet' .*, got flips; use another study"
        ):
            check_scored_alike("storage", "unet", tmp_path, "flips", "yes")
        with pytest.raises(UserError, match="largest_component must stay yes, .* got no"):
            check_scored_alike("storage", "unet", tmp_path, "none", "no")

    def test_a_new_study_has_no_scores(self, tmp_path: Path) -> None:
        check_scored_alike(f"sqlite:///{tmp_path / 'optuna.db'}", "unet", tmp_path, "flips", "no")


class TestRegisteredAlready:
    """A trial whose model is a version: what the version holds is checked before the test split is used."""

    @pytest.fixture
    def refuse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """`finish` with a `tta`, where trial 3 is registered with flips and the threshold 0.45."""
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        manifest = make_manifest(tmp_path)
        tracker = Tracker(uri, None)
        study_run = tracker.start_study("unet", {}, manifest)
        client = mlflow.MlflowClient(uri)
        run_id = client.create_run(client.get_run(study_run).info.experiment_id).info.run_id
        (tmp_path / "model.keras").write_bytes(b"weights")
        appearance = Appearance(
            height=(1, 9), width=(1, 9), aspect=(1, 1), brightness=(0, 255), contrast=(0, 200), colour=0.0
        )
        Registry(uri).register(
            run_id,
            tmp_path / "model.keras",
            "seg-unet",
            scores={"dice_own_size": 0.5},
            threshold=0.45,
            dataset_key="dataset",
            test_key="test",
            example=b"image",
            training_images=appearance,
            tta="flips",
        )
        used: list[Any] = []

        def score(*arguments: Any) -> None:
            used.append(arguments[-3:])
            raise RuntimeError("the test split is used")

        monkeypatch.setattr(finish_module, "score_on_test", score)
        monkeypatch.setattr(finish_module, "note_selection", lambda *arguments: None)
        result = make_result(tmp_path, run_id, study_run)

        def finish(tta: str) -> list[Any]:
            values = Namespace(
                select="best", storage="", tta=tta, largest_component="no", model_name="seg-unet", workspace=tmp_path
            )
            executor: Any = None
            finish_module.finish(result, make_space(), manifest, tracker, executor, values)
            return used

        return finish, used

    def test_another_tta(self, refuse) -> None:
        finish, used = refuse
        with pytest.raises(UserError, match="tta must stay flips, with which version 1 of seg-unet .* got none"):
            finish("none")
        assert used == []

    def test_the_same(self, refuse) -> None:
        finish, used = refuse
        with pytest.raises(RuntimeError, match="the test split is used"):
            finish("flips")
        assert used == [("flips", "no", 0.45)]

    def test_mlflow_that_is_away_keeps_nobody_from_scoring(self, refuse, monkeypatch: pytest.MonkeyPatch) -> None:
        finish, used = refuse
        monkeypatch.setattr(finish_module, "answers", lambda uri: False)
        with pytest.raises(RuntimeError, match="the test split is used"):
            finish("none")
        assert used == [("none", "no", None)]
