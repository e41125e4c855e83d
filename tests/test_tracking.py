import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from experiments.command_line import code_version
from experiments.command_line.code_version import git_commit
from experiments.registry.registry import Registry
from experiments.tracking.operations import new_key, trial_key
from experiments.tracking.outbox import JOURNAL
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.appearance import Appearance
from seg.data.manifest import Manifest, SplitSummary
from seg.errors import UserError
from seg.training.result import EpochReport
from tests.mlflow_server import mlflow_server

NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def manifest(tmp_path):
    return Manifest(
        folder=tmp_path / "dataset",
        key="0123456789abcdef",
        name="lesions",
        image_size=128,
        split="official",
        settings={"categories": "all"},
        categories=[],
        splits={"train": SplitSummary(examples=30, empty=2, foreground=0.05, key="t")},
        left_out=[],
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The folder of one real store for the whole module; making its schema takes over a second."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def tracker(store):
    return Tracker(f"sqlite:///{store}/mlflow.db", None)


@pytest.fixture
def client(tracker):
    return mlflow.MlflowClient(tracker.uri)


@pytest.fixture
def study(tracker, manifest):
    return tracker.start_study("widths", {"trials": 4, "loss": ("bce", "dice"), "learning_rate": 0.001}, manifest)


def start_trial(tracker, study, manifest, number=3):
    return tracker.start_trial(study, "widths", number, TrainConfig(loss="dice", filters=16), manifest)


def report(epoch=1, **changes):
    values = {"train_loss": 0.5, "val_loss": 0.6, "val_dice": 0.7, "images_per_second": 80.0, "seconds": 1.0}
    return EpochReport(epoch=epoch, **(values | changes))


def test_study_run(study, client, store):
    run = client.get_run(study)
    assert run.info.run_name == "widths"
    assert run.info.status == "RUNNING"
    assert run.data.params == {"trials": "4", "loss": "bce,dice", "learning_rate": "0.001"}
    tags = run.data.tags
    assert (tags["study"], tags["dataset_key"], tags["split"]) == ("widths", "0123456789abcdef", "official")
    assert "| train | 30 | 2 |" in tags["mlflow.note.content"]
    assert "Settings: trials 4, loss bce,dice, learning_rate 0.001." in tags["mlflow.note.content"]
    assert client.get_experiment(run.info.experiment_id).name == "segmentation"
    assert run.info.artifact_uri.startswith((store / "mlruns" / "segmentation").as_uri())


def test_trial_run(tracker, study, manifest, client):
    run = client.get_run(start_trial(tracker, study, manifest))
    assert run.info.run_name == "0003 dice f16"
    assert run.info.experiment_id == client.get_run(study).info.experiment_id
    assert run.data.params == {
        name: str(value) for name, value in TrainConfig(loss="dice", filters=16).as_dict().items()
    }
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == study
    assert (tags["study"], tags["trial"], tags["dataset_key"]) == ("widths", "3", "0123456789abcdef")
    assert tags.get("git_commit") == git_commit()


def test_the_dataset_is_an_input_with_our_key(tracker, study, manifest, client):
    trial = start_trial(tracker, study, manifest)
    for run_id in (study, trial):
        (entry,) = client.get_run(run_id).inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == ("lesions", "0123456789abcdef")
        assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]
        profile = json.loads(entry.dataset.profile)
        assert profile["train"] == {"examples": 30, "empty": 2, "key": "t"}
        assert profile["settings"] == {"categories": "all"}


def test_epochs_are_steps(tracker, study, manifest, client):
    trial = start_trial(tracker, study, manifest)
    tracker.log_epoch(trial, report(epoch=1, val_dice=0.25))
    tracker.log_epoch(trial, report(epoch=2, val_dice=0.5))
    history = client.get_metric_history(trial, "val_dice")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.25), (2, 0.5)]
    names = {name for name in client.get_run(trial).data.metrics if not name.startswith("system/")}
    assert names == {"train_loss", "val_loss", "val_dice", "images_per_second"}


def test_numbers_that_are_not_finite_are_left_out(tracker, study, client):
    tracker.log_metrics(study, {"a": NAN, "b": INFINITY, "c": -INFINITY, "d": 1})
    tracker.log_metrics(study, {"a": NAN})
    assert client.get_run(study).data.metrics == {"d": 1.0}


@pytest.mark.parametrize(
    ("state", "status"),
    [("finished", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED"), ("cancelled", "FAILED")],
)
def test_the_state_decides_the_status(tracker, study, client, state, status):
    tracker.end(study, state)
    run = client.get_run(study)
    assert run.info.status == status
    assert run.info.end_time is not None
    assert run.data.tags["state"] == state
    assert run.data.tags.get("pruned") == ("true" if state == "pruned" else None)
    assert "reason" not in run.data.tags


def test_a_failure_keeps_reason_and_traceback(tracker, study, manifest, client, tmp_path):
    trial = start_trial(tracker, study, manifest)
    tracker.end(trial, "failed", reason="killed by SIGKILL", traceback="Traceback …\n")
    assert client.get_run(trial).data.tags["reason"] == "killed by SIGKILL"
    path = client.download_artifacts(trial, "traceback.txt", str(tmp_path))
    assert Path(path).read_text(encoding="utf-8") == "Traceback …\n"


def test_an_unknown_state_is_refused(tracker, study):
    with pytest.raises(KeyError, match="done"):
        tracker.end(study, "done")


def test_a_study_goes_on_in_its_run(tmp_path, study, tracker, manifest, client):
    tracker.end(study, "cancelled", reason="Ctrl-C")
    again = Tracker(tracker.uri, "another experiment")
    assert again.start_study("widths", {"trials": 8, "sampler": "grid"}, manifest, run_id=study) == study
    run = client.get_run(study)
    assert run.info.status == "RUNNING"
    assert run.data.params["trials"] == "4", "a logged parameter cannot change"
    assert run.data.params["sampler"] == "grid"
    trial = start_trial(again, study, manifest)
    assert client.get_run(trial).info.experiment_id == run.info.experiment_id


def test_the_run_of_mlflow_run_is_adopted(tracker, manifest, client):
    outer = client.create_run("0").info.run_id
    client.log_param(outer, "learning_rate", "1e-3")  # as `mlflow run` logs what was typed
    assert tracker.start_study("widths", {"learning_rate": 0.001, "trials": 4}, manifest, adopt=outer) == outer
    run = client.get_run(outer)
    assert run.info.run_name == "widths"
    assert run.data.params == {"learning_rate": "1e-3", "trials": "4"}
    assert client.get_run(start_trial(tracker, outer, manifest)).info.experiment_id == "0"


def test_an_adopted_run_keeps_what_mlflow_run_noted_of_its_origin(tracker, manifest, client):
    noted = {"mlflow.source.type": "PROJECT", "mlflow.source.name": "git@host:project", "mlflow.user": "ada"}
    outer = client.create_run("0", tags=noted).info.run_id
    tracker.start_study("widths", {}, manifest, adopt=outer)
    tags = client.get_run(outer).data.tags
    assert {name: tags[name] for name in noted} == noted


def test_a_run_whose_id_nobody_noted_is_found_by_its_key(tracker, manifest, client):
    key, parameters = new_key(), {"trials": 4}
    made = tracker.start_study("widths", parameters, manifest, key=key)
    outer = client.create_run("0").info.run_id
    again = Tracker(tracker.uri, "another experiment")
    assert again.start_study("widths", parameters, manifest, adopt=outer, key=key) == made
    assert client.get_run(outer).data.tags["mlflow.parentRunId"] == made
    assert client.get_experiment_by_name("another experiment") is None


def test_a_run_that_was_deleted_before_its_id_was_noted_is_made_again(tracker, manifest, client, tmp_path):
    key = new_key()
    with Tracker(tracker.uri, "gone", tmp_path / "workspace", "study_widths") as first:
        made = first.start_study("widths", {}, manifest, key=key)
        (journal,) = (tmp_path / "workspace").rglob(JOURNAL)
        while made not in journal.read_text():
            time.sleep(0.02)
        shutil.copytree(tmp_path / "workspace", tmp_path / "left")  # as a SIGKILL leaves it: the outbox knows the id
    client.delete_run(made)
    with Tracker(tracker.uri, "gone", tmp_path / "left", "study_widths") as again:
        made_again = again.start_study("widths", {}, manifest, key=key)
        again.end(made_again, "finished")
    assert again.undelivered() == ""
    assert made_again != made
    assert client.get_run(made_again).info.status == "FINISHED"


def test_a_user_without_a_name_can_start_a_run(tracker, manifest, client, monkeypatch):
    def refuse():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", refuse)
    run = client.get_run(tracker.start_study("widths", {}, manifest))
    assert run.data.tags["mlflow.user"] == f"uid {os.getuid()}"


def test_a_deleted_run_cannot_go_on(tracker, study, manifest, client):
    client.delete_run(study)
    with pytest.raises(UserError, match=rf"MLflow run {study} must not be deleted; restore it"):
        tracker.start_study("widths", {}, manifest, run_id=study)


def test_the_run_of_mlflow_run_is_filed_under_a_study_that_goes_on(tracker, study, manifest, client):
    outer = client.create_run("0").info.run_id
    assert tracker.start_study("widths", {}, manifest, run_id=study, adopt=outer) == study
    assert client.get_run(outer).data.tags["mlflow.parentRunId"] == study


def test_it_is_filed_by_the_id_of_a_study_that_is_known_by_its_key(tracker, study, client):
    outer = client.create_run("0").info.run_id
    tracker.file_under(outer, "widths", client.get_run(study).data.tags["run_key"])
    assert client.get_run(outer).data.tags["mlflow.parentRunId"] == study


def test_a_trial_that_mlflow_was_never_told_of_goes_on(tracker, study, manifest, client):
    key = trial_key(study, 5)  # all that a driver left which died while MLflow was away
    config = TrainConfig(loss="dice", filters=16)
    assert tracker.resume_trial(study, "widths", 5, config, manifest, key) == (key, 0)
    tracker.log_epoch(key, report(3))
    assert tracker.resume_trial(study, "widths", 5, config, manifest, key) == (key, 3)
    tracker.end(key, "finished")
    run = client.get_run(tracker.delivered(key))
    assert (run.info.status, run.data.tags["trial"], run.data.params["filters"]) == ("FINISHED", "5", "16")


def test_files_and_texts_become_artifacts(tracker, study, client, tmp_path):
    (tmp_path / "panels").mkdir()
    (tmp_path / "panels" / "best_0.png").write_bytes(b"png")
    tracker.log_folder(study, tmp_path / "panels", "panels")
    tracker.log_text(study, "a,b\n", "tables/comparison.csv")
    paths = {file.path for folder in ("panels", "tables") for file in client.list_artifacts(study, folder)}
    assert paths == {"panels/best_0.png", "tables/comparison.csv"}


def test_tags_are_replaced_and_the_note_grows(tracker, study, client):
    tracker.log_tags(study, {"best_trial": 3})
    tracker.extend_note(study, "the answer")
    assert client.get_run(study).data.tags["best_trial"] == "3"
    note = client.get_run(study).data.tags["mlflow.note.content"]
    assert note.startswith("### Study `widths`")
    assert note.endswith("\nthe answer")


def test_the_active_run_plays_no_part(tracker, manifest, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    study = tracker.start_study("widths", {}, manifest)
    trial = start_trial(tracker, study, manifest)
    assert mlflow.active_run() is None
    assert client.get_run(trial).data.tags["mlflow.parentRunId"] == study


def test_system_metrics_are_written_while_a_trial_runs(tracker, study, manifest, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    trial = start_trial(tracker, study, manifest)
    deadline = time.monotonic() + 10
    while "system/cpu_utilization_percentage" not in client.get_run(trial).data.metrics:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tracker.end(trial, "finished")


def test_broken_sensors_hurt_nobody(tracker, study, manifest, client, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("no sensor")

    monkeypatch.setattr("experiments.tracking.system_metrics.CPUMonitor", broken)
    trial = start_trial(tracker, study, manifest)
    tracker.end(trial, "finished")
    assert client.get_run(trial).info.status == "FINISHED"
    assert "no sensor" in caplog.text


@pytest.mark.parametrize("run_id", ["00", "runs/abc/model.keras"])
def test_a_run_that_the_store_does_not_have(tracker, manifest, run_id):
    with pytest.raises(UserError, match=rf"MLflow run '{run_id}' must be in sqlite:.*, got none"):
        tracker.start_study("widths", {}, manifest, run_id=run_id)


def test_a_deleted_experiment(tracker, client):
    client.delete_experiment(client.create_experiment("old"))
    with pytest.raises(UserError, match="got 'old', which was deleted"):
        Tracker(tracker.uri, "old")


def test_a_store_that_mlflow_refuses(tmp_path, monkeypatch):
    def refuse(uri):
        raise mlflow.exceptions.MlflowException("out-of-date schema\nrun mlflow db upgrade")

    monkeypatch.setattr(mlflow, "MlflowClient", refuse)
    with pytest.raises(UserError, match="must be usable, got: out-of-date schema; check its version"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", None)


def test_an_error_of_the_store_is_not_taken_for_a_missing_run(tracker, manifest, monkeypatch):
    def fail(run_id):
        raise mlflow.exceptions.MlflowException("database is locked")

    monkeypatch.setattr(tracker._client, "get_run", fail)
    with pytest.raises(mlflow.exceptions.MlflowException, match="database is locked"):
        tracker.start_study("widths", {}, manifest, run_id="00")


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(code_version, "__file__", str(tmp_path / "code_version.py"))
    git_commit.cache_clear()
    try:
        assert git_commit() is None
    finally:
        git_commit.cache_clear()


def test_where_to_browse_a_database(tracker, study):
    assert tracker.where_to_browse(study) == f"mlflow ui --backend-store-uri {tracker.uri}"


def test_nothing_is_printed_and_no_tensorflow_imported(tmp_path):
    code = (
        "import sys; from experiments.tracking.tracker import Tracker; "
        f"Tracker('sqlite:///{tmp_path}/mlflow.db', None); "
        "assert not {'tensorflow', 'keras', 'optuna'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_real_server(tmp_path, manifest, capfd):
    with mlflow_server(tmp_path) as uri:
        tracker = Tracker(uri, "segmentation")
        study = tracker.start_study("widths", {"trials": 1}, manifest)
        trial = start_trial(tracker, study, manifest)
        tracker.log_epoch(trial, report())
        tracker.log_text(trial, "text", "note.txt")
        tracker.end(trial, "finished")
        tracker.end(study, "finished")
        client = mlflow.MlflowClient(uri)
        assert client.get_run(trial).data.metrics["val_dice"] == 0.7
        assert [file.path for file in client.list_artifacts(trial)] == ["note.txt"]
        experiment = client.get_run(study).info.experiment_id
        assert tracker.where_to_browse(study) == f"{uri}/#/experiments/{experiment}/runs/{study}"

        # The registry, through the same server.
        (tmp_path / "model.keras").write_bytes(b"weights")
        registered = Registry(uri).register(
            trial,
            tmp_path / "model.keras",
            "seg-unet",
            scores={"dice_own_size": 0.8},
            threshold=0.5,
            dataset_key=manifest.key,
            test_key="test",
            example=b"image",
            training_images=Appearance(
                height=(1, 2), width=(1, 2), aspect=(1, 1), brightness=(0, 1), contrast=(0, 1), colour=1.0
            ),
        )
        folder = Registry(uri).download(registered, tmp_path / "fetched")
        assert (folder / "model.keras").read_bytes() == b"weights"
    assert capfd.readouterr() == ("", "")


def test_pictures_are_steps_of_a_series(tracker, study, tmp_path):
    import cv2
    import numpy as np

    for epoch in (1, 3):
        path = tmp_path / f"{epoch}.png"
        cv2.imwrite(str(path), np.full((8, 8, 3), epoch, np.uint8))
        tracker.log_image(study, path, "validation", step=epoch)
    names = [file.path for file in tracker._client.list_artifacts(study, "images")]
    steps = [re.search(r"validation\Wstep\W(\d+)\W", name)[1] for name in names if name.endswith(".png")]
    assert sorted(steps) == ["1", "3"]
