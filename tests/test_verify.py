"""`verify` on a study that is as it should be, and on one where one thing after the other is not."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from experiments import verify
from experiments.storage.study_hold import hold_command
from experiments.storage.study_store import read_study
from experiments.studies.study_result import checkpoint_folder, trial_folder
from experiments.tracking.operations import Operation
from experiments.tracking.outboxes import Outboxes
from experiments.tracking.tracker import Tracker
from seg.data.build import split_key
from seg.data.manifest import Manifest
from seg.data.record_faults import record_faults
from seg.errors import UserError
from tests.study_setting import Setting
from tests.tiny import write_tiny


def whole_dataset(folder: Path) -> Manifest:
    """A tiny dataset whose manifest says of its records what `convert` would."""
    manifest = write_tiny(folder, image_size=16)
    splits = {}
    for name, summary in manifest.splits.items():
        masks = manifest.records(name)[..., 3] == 1
        key = split_key(manifest.examples(name), "ignore")
        splits[name] = replace(summary, key=key, foreground=int(masks.sum()) / masks.size)
    whole = replace(manifest, splits=splits)
    whole.save()
    return whole


class Study:
    """A study of two fake trials in a folder, with real databases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.setting = Setting(folder)
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(self.uri)

    def run(self) -> None:
        self.setting.tracker = Tracker(self.uri, "verify")
        manifest = whole_dataset(self.folder / "datasets" / "tiny-0")
        result = self.setting.run(2, manifest=manifest)
        self.setting.tracker.end(result.run_id, "finished")

    @property
    def run_ids(self) -> list[str]:
        return [str(row.run_id) for row in read_study(self.setting.storage, "losses").rows]

    @property
    def parent(self) -> str:
        return str(read_study(self.setting.storage, "losses").run_id)

    def trial(self, number: int) -> Path:
        return trial_folder(self.folder, "losses", number, self.run_ids[number])

    def set_state(self, number: int, state: str) -> None:
        self.execute("optuna.db", "UPDATE trials SET state = ? WHERE number = ?", state, number)

    def execute(self, database: str, statement: str, *values: object) -> None:
        """Changes a record past its library."""

        connection = sqlite3.connect(self.folder / database)
        with connection:
            connection.execute(statement, values)
        connection.close()

    def verify(self, repair: str = "no") -> int:
        return verify.main(
            [
                "--study",
                "losses",
                "--storage",
                self.setting.storage,
                "--workspace",
                str(self.folder),
                "--repair",
                repair,
            ]
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, copied for each test."""
    place = tmp_path_factory.mktemp("made") / "study"
    place.mkdir()
    Study(place).run()
    return place


@pytest.fixture
def study(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    place = tmp_path / "study"
    shutil.copytree(made, place)
    found = Study(place)
    for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
        change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
        found.execute("mlflow.db", change, str(made), str(place))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    return found


def test_a_study_as_it_should_be(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.verify() == 0
    assert capsys.readouterr().out == "study 'losses': Optuna, MLflow and the workspace agree\n"


def delete_metric(study: Study, name: str, step: int | None = None) -> None:
    where = "key = ? AND run_uuid = ?" + ("" if step is None else " AND step = ?")
    values = (name, study.run_ids[0]) + (() if step is None else (step,))
    study.execute("mlflow.db", f"DELETE FROM metrics WHERE {where}", *values)
    if step is None:
        study.execute("mlflow.db", f"DELETE FROM latest_metrics WHERE {where}", *values)


def open_run(study: Study) -> None:
    study.client.update_run(study.run_ids[0], status="RUNNING")


def open_parent(study: Study) -> None:
    study.client.update_run(study.parent, status="RUNNING")


def left_behind(study: Study) -> None:
    study.set_state(1, "RUNNING")


def not_waiting(study: Study) -> None:
    study.set_state(1, "WAITING")


def without_value(study: Study) -> None:
    delete_metric(study, "best_val_dice")


def without_epoch(study: Study) -> None:
    delete_metric(study, "val_dice", 1)


def stray_run(study: Study) -> None:
    experiment = study.client.get_run(study.parent).info.experiment_id
    tags = {"study": "losses", "trial": "0", "mlflow.parentRunId": study.parent}
    study.client.create_run(experiment, tags=tags)


def old_checkpoints(study: Study) -> None:
    checkpoint_folder(study.trial(0)).mkdir()


def no_model(study: Study) -> None:
    (study.trial(1) / "model.keras").unlink()


def no_logged_model(study: Study) -> None:
    artifacts = study.client.get_run(study.run_ids[1]).info.artifact_uri
    (Path(artifacts.removeprefix("file://")) / "model.keras").unlink()


REPAIRED = [
    (open_run, "trial 0 is finished in Optuna, and its MLflow run", "is RUNNING"),
    (open_parent, "study its MLflow run", "is RUNNING without a driver"),
    (left_behind, "trial 1 is running in Optuna without a driver", "its MLflow run is FINISHED"),
    (not_waiting, "trial 1 is waiting in Optuna, and its MLflow run", "is FINISHED"),
    (without_value, "trial 0 has the value", "its MLflow run has no best_val_dice"),
    (without_epoch, "trial 0 has val_dice of epoch 1 in Optuna and not in MLflow", ""),
    (stray_run, "is RUNNING as trial 0 of the study, which has the run", ""),
    (old_checkpoints, "holds checkpoints of trial 0, which is finished", ""),
    (no_model, "has no model.keras, and trial 1 is finished", ""),
]


@pytest.mark.parametrize(("harm", "first", "second"), REPAIRED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_repaired(harm, first: str, second: str, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    harm(study)
    assert study.verify() == 3
    told = capsys.readouterr().out
    assert first in told
    assert second in told
    assert "study 'losses': 1 disagreement(s)\n" in told
    code = study.verify("yes")
    repaired = capsys.readouterr().out
    assert repaired.startswith("repaired: ")
    if harm is stray_run:  # it is ended, and stays a run that no trial has: to delete it is a person's business
        assert code == 3
        assert "is FAILED as trial 0" in (study.verify(), capsys.readouterr().out)[1]
    else:
        assert code == 0, repaired
        assert study.verify() == 0


def test_a_repaired_trial_goes_on(study: Study) -> None:
    left_behind(study)
    assert study.verify("yes") == 0
    study.run()
    assert study.setting.optuna_states() == ["COMPLETE", "COMPLETE"]
    assert study.verify() == 0


def other_parameter(study: Study) -> None:
    study.execute("mlflow.db", "UPDATE params SET value = 'x' WHERE key = 'filters' AND run_uuid = ?", study.run_ids[0])


def other_value(study: Study) -> None:
    study.client.log_metric(study.run_ids[0], "best_val_dice", 0.99)


def other_epoch(study: Study) -> None:
    study.execute(
        "mlflow.db",
        "UPDATE metrics SET value = 0.5 WHERE key = 'val_dice' AND step = 1 AND run_uuid = ?",
        study.run_ids[0],
    )


def deleted_run(study: Study) -> None:
    study.client.delete_run(study.run_ids[0])


def deleted_parent(study: Study) -> None:
    study.client.delete_run(study.parent)


def other_dataset(study: Study) -> None:
    study.client.set_tag(study.run_ids[0], "dataset_key", "b" * 64)


def strange_folder(study: Study) -> None:
    (study.folder / "studies" / "losses" / "trial_0007_0123abcd").mkdir()


def strange_checkpoints(study: Study) -> None:
    (study.folder / "studies" / "losses" / "trial_0007_0123abcd.checkpoints").mkdir()


def no_dataset(study: Study) -> None:
    shutil.rmtree(study.folder / "datasets")


def other_masks(study: Study) -> None:
    path = study.folder / "datasets" / "tiny-0" / "train.npy"
    records = np.load(path)
    records[1, 0, 0, 3] = 1 - records[1, 0, 0, 3]
    np.save(path, records)


def torn_records(study: Study) -> None:
    path = study.folder / "datasets" / "tiny-0" / "val.npy"
    path.write_bytes(path.read_bytes()[:-1])


NAMED = [
    (no_logged_model, "has a model.keras in"),
    (other_parameter, "trial 0 has filters=8 in Optuna and filters=x in MLflow"),
    (other_value, "and best_val_dice 0.99 in MLflow"),
    (other_epoch, "of epoch 1 in Optuna and 0.5 in MLflow"),
    (deleted_run, "is deleted -> mlflow runs restore --run-id"),
    (deleted_parent, "study its MLflow run"),
    (other_dataset, "in Optuna and bbbbbbbbbbbb in MLflow"),
    (strange_folder, "trial_0007_0123abcd is a trial's, and of no trial that this storage has"),
    (strange_checkpoints, "trial_0007_0123abcd.checkpoints holds checkpoints, and of no trial"),
    (no_dataset, "is not a converted dataset"),
    (other_masks, "train.npy has a foreground of"),
    (torn_records, "val.npy is damaged"),
]


@pytest.mark.parametrize(("harm", "named"), NAMED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_named_and_left_to_people(harm, named: str, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    harm(study)
    assert study.verify("yes") == 3
    told = capsys.readouterr().out
    assert named in told
    assert "study 'losses': 1 disagreement(s) stay\n" in told
    assert "repaired" not in told


def test_what_mlflow_was_not_told_yet(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    outbox = Outboxes.of(study.folder, study.uri).open("study_losses")
    outbox.append([Operation(run=study.parent, do="status", what={"status": "FINISHED", "end": 1})])
    outbox.close()
    assert study.verify() == 3
    assert (
        f"{outbox.folder} holds 1 operation(s) that MLflow was not told yet -> "
        f"python -m experiments.sync --workspace {study.folder}\n" in capsys.readouterr().out
    )


def test_nothing_is_repaired_that_mlflow_may_yet_be_told(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    outbox = Outboxes.of(study.folder, study.uri).open("study_losses")
    outbox.append([Operation(run=study.run_ids[0], do="status", what={"status": "FINISHED", "end": 1})])
    outbox.close()
    open_run(study)
    assert study.verify("yes") == 3
    assert "repaired:" not in capsys.readouterr().out
    assert study.client.get_run(study.run_ids[0]).info.status == "RUNNING"


def test_a_run_that_optuna_knows_by_its_key(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    key = study.client.get_run(study.run_ids[0]).data.tags["run_key"]
    there = study.trial(0)
    parent = study.client.get_run(study.parent).data.tags["run_key"]
    for table, run, known in (("trial", study.run_ids[0], key), ("study", study.parent, parent)):
        change = f"UPDATE {table}_user_attributes SET value_json = ? WHERE value_json = ?"
        study.execute("optuna.db", change, json.dumps(known), json.dumps(run))
    there.rename(study.trial(0))
    assert study.run_ids[0] == key
    assert study.parent == parent
    assert study.verify() == 0, capsys.readouterr().out


def test_nothing_is_repaired_while_a_driver_holds_the_study(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    left_behind(study)
    open_parent(study)
    open_run(study)
    with hold_command(study.setting.storage, "losses"):
        with pytest.raises(UserError, match="another process is running 'losses'"):
            study.verify("yes")
        assert study.client.get_run(study.run_ids[0]).info.status == "RUNNING"
        assert study.verify() == 3
        told = capsys.readouterr().out
    assert "a driver holds the study" in told
    assert "trial 1" not in told  # it may well run
    assert "without a driver" not in told
    assert "study 'losses': 1 disagreement(s)\n" in told  # a trial that is over must not have a run that is not


def test_a_study_that_is_not_there(study: Study) -> None:
    with pytest.raises(UserError, match="study must be one of losses, got 'widths'"):
        verify.main(["--study", "widths", "--storage", study.setting.storage])
    assert not list(study.folder.glob("*widths*"))


def test_records_that_no_conversion_writes(tmp_path: Path) -> None:
    manifest = whole_dataset(tmp_path / "tiny-0")
    assert record_faults(manifest) == []
    records = np.load(manifest.folder / "val.npy")
    records[0, 5, 5, 3] = 7
    np.save(manifest.folder / "val.npy", records)
    lines = (manifest.folder / "test.jsonl").read_text().splitlines()
    (manifest.folder / "test.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    first = json.loads(lines[0])
    (manifest.folder / "train.jsonl").write_text(json.dumps(first) + "\nno JSON\n")
    found = "\n".join(record_faults(Manifest.load(manifest.folder)))
    assert "val.npy has mask values other than 0, 1 and 255" in found
    assert "test.jsonl lists other images or masks than the manifest's key" in found
    assert "train.jsonl cannot be read" in found
