"""`doctor` on this machine, and on machines where something is wrong."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import optuna
import pytest
from packaging.requirements import Requirement

from experiments.checks import machine_checks
from experiments.checks.machine_checks import (
    Check,
    check_devices,
    check_storage,
    check_tracking,
    check_versions,
    check_workspace,
)
from experiments.checks.replica_check import ReplicaProcesses
from experiments.doctor import check_replicas
from experiments.storage.storage_connection import DatabaseClock
from experiments.tracking.tracker import Tracker
from seg.config import LOSSES

ROOT = Path(__file__).parent.parent


def only(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


@pytest.mark.slow
def test_a_healthy_machine(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "experiments.doctor", "--output", "checks.json"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    checks = json.loads((tmp_path / "checks.json").read_text())
    assert [check["name"] for check in checks] == [
        "versions",
        "workspace",
        "disk",
        "storage",
        "time zone",
        "tracking",
        "devices",
        "replicas",
    ]
    assert all(loss in checks[-1]["found"] for loss in LOSSES)
    assert len(ran.stdout.splitlines()) == len(checks) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["checks.json"]  # looking leaves nothing behind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "named"),
    [
        ("scalar", "loss 'dice' must return one value per image, shape (batch,), got shape ()"),
        ("scalar", "loss 'dice' must have the same gradient on 4 replicas as on one device"),
        ("doubled", "loss 'dice' must have the same gradient on 4 replicas as on one device"),
        ("doubled", "4.000 times as much"),
        ("batch", "a global batch must be a multiple of the number of replicas, got 10 images for 4"),
        ("last", "every batch of training must have 12 images, got one of 1 for 4 replica(s)"),
        ("left_out", "validation must weigh each of 13 images 1, got 12"),
        ("killed", "killed by SIGKILL"),
    ],
)
def test_a_planted_mistake_is_named(planted: str, named: str, planted_checks: dict[str, list[Check]]) -> None:
    checks = planted_checks[planted]
    assert {(check.name, check.status) for check in checks} == {("replicas", "failed")}
    assert [check for check in checks if named in check.found]
    assert not [check for check in checks if "'bce'" in check.found]  # the mistakes are in dice


@pytest.fixture(scope="module")
def planted_checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Check]]:
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for planted in ("scalar", "doubled", "batch", "last", "left_out", "killed"):
            patch.setenv("PLANTED", planted)
            folder = tmp_path_factory.mktemp(planted)
            with ReplicaProcesses(folder, [], "tests.planted_replicas") as processes:
                found[planted] = check_replicas(processes.result())
    return found


def test_versions_that_are_not_the_pinned_ones() -> None:
    assert only(check_versions(), "versions").status == "ok"
    other = only(check_versions([Requirement("numpy==1.0")]), "versions")
    assert other.status == "warning"
    assert "instead of 1.0" in other.found
    missing = only(check_versions([Requirement("no-such-package==1.0")]), "versions")
    assert (missing.status, missing.found) == ("failed", "not installed: no-such-package")


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(check_workspace(tmp_path / "file" / "workspace"), "workspace")
    assert found.status == "failed"
    assert "Not a directory" in found.found
    assert only(check_workspace(tmp_path / "new" / "workspace"), "workspace").status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("free", "status"), [(0.5, "failed"), (5, "warning"), (50, "ok")])
def test_free_disk(free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(0, 0, free * 2**30))
    assert only(check_workspace(tmp_path), "disk").status == status


def test_a_storage_that_is_there_is_left_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    optuna.storages.RDBStorage(url).engine.dispose()
    assert only(check_storage(url), "storage").status == "ok"
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    assert "studies" in tables
    assert "seg_doctor" not in tables


def test_a_storage_that_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    optuna.storages.RDBStorage(url).engine.dispose()
    held = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    found = only(check_storage(url), "storage")
    held.close()
    assert found.status == "failed"
    assert "database is locked" in found.found


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:///missing/optuna.db", "no such folder"),
        ("sqlite:///text.db", "file is not a database"),
        ("mysql://host/db", "storage must be a URL like"),
        ("postgresql://seg:geheim@127.0.0.1:1/seg", "storage postgresql://seg:***@127.0.0.1:1/seg"),
    ],
)
def test_a_storage_that_is_of_no_use(url: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("no database, and long enough to be taken for one " * 20)
    found = only(check_storage(url), "storage")
    assert found.status == "failed"
    assert named in found.found
    assert found.remedy
    assert "geheim" not in str(found)


@pytest.mark.parametrize(
    ("zone", "ahead", "status", "named"),
    [
        ("UTC", 0.1, "ok", "UTC in the storage"),
        ("Europe/Berlin", 0.1, "warning", "SET timezone TO 'UTC'"),
        ("UTC", -600.0, "warning", "set both clocks"),
    ],
)
def test_the_storages_time(zone: str, ahead: float, status: str, named: str) -> None:
    found = machine_checks._zone(DatabaseClock(zone=zone, ahead=ahead))
    assert found.status == status
    assert named in found.found + found.remedy


def test_a_tracking_store_that_is_there_takes_a_run_and_a_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert only(check_tracking(uri), "tracking").status == "ok"
    assert not list(tmp_path.iterdir())
    tracker = Tracker(uri, None)
    assert only(check_tracking(uri), "tracking").found == f"{uri} takes runs and files"
    experiment = tracker._client.get_experiment_by_name("segmentation")
    assert tracker._client.search_runs([experiment.experiment_id]) == []
    (tmp_path / "mlruns").rename(tmp_path / "gone")
    (tmp_path / "mlruns").touch()  # a file where the artifacts' folder should be
    found = only(check_tracking(uri), "tracking")
    assert found.status == "failed"
    assert "must take runs and files" in found.found


@pytest.mark.parametrize("uri", ["ftp://anna:geheim@host", "http://anna:geheim@127.0.0.1:1"])
def test_a_tracking_store_that_is_of_no_use(uri: str) -> None:
    found = only(check_tracking(uri), "tracking")
    assert found.status == "failed"
    assert found.remedy
    assert "geheim" not in str(found)


def test_gpus_that_tensorflow_does_not_find() -> None:
    assert only(check_devices([], 0), "devices").status == "ok"
    found = only(check_devices(["GPU-1", "GPU-2"], 0), "devices")
    assert found.status == "failed"
    assert "TensorFlow finds 0" in found.found
