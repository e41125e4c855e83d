"""The executor for Ray on a real cluster of two nodes; one of them dies."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.command_line.code_version import git_commit
from experiments.command_line.progress import Progress
from experiments.executors import ray as ray_executor
from experiments.executors.ray import RayExecutor
from experiments.executors.shipping import private_folder
from experiments.executors.slots import Share
from experiments.jobs.messages import Job, JobEnded, JobReported
from experiments.jobs.split_predictions import SplitPredictions
from experiments.studies.driver import run_study
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.demo import write_demo
from seg.errors import UserError
from tests.executor_contract import (
    ExecutorContract,
    ending_of,
    is_alive,
    make_job,
    run_to_end,
    wait_for_pid,
    wait_until_dead,
)
from tests.history import check_history
from tests.ray_cluster import TwoNodes, running_cluster
from tests.study_setting import Setting, make_manifest, make_space
from tests.tiny import write_tiny

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
ONE_CPU = Share(cpus=1, gpus=0)
CODE = ("seg", "experiments", "tests")


@pytest.fixture(scope="module")
def started():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(started: TwoNodes) -> TwoNodes:
    started.repair()
    return started


def connect(cluster: TwoNodes, of: type[RayExecutor] = RayExecutor, **options) -> RayExecutor:
    return of(cluster.address, **{"share": ONE_CPU, "packages": CODE, "tasks": "tests.fake_tasks"} | options)


class TestRayExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, cluster):
        with connect(cluster) as executor:
            yield executor


def test_what_ray_says_does_not_reach_the_terminal(cluster, tmp_path, capfd):
    with connect(cluster) as executor:
        executor.submit(make_job(tmp_path))
        run_to_end(executor)
    assert capfd.readouterr() == ("", "")
    assert "library noise on stderr" in (tmp_path / "trial_0" / "log.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["trial_0"]  # nothing that was of use on the way


def test_files_come_back_with_each_report(cluster, tmp_path):
    folder, job = tmp_path / "trial_0", make_job(tmp_path)
    with connect(cluster, ship=True) as executor:
        executor.submit(job)
        while not (events := executor.wait(5)):
            pass
        assert isinstance(events[0], JobReported)
        assert events[0].job == job
        assert (folder / "epochs.txt").read_text() == "1\n"
        executor.answer(job, True)
        assert ending_of(executor).state == "finished"
    assert (folder / "epochs.txt").read_text() == "1\n2\n3\n"
    assert (folder / "model.keras").exists()
    assert "library noise" in (folder / "log.txt").read_text()


def test_it_goes_on_from_checkpoints_that_are_shipped(cluster, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    job = Job(
        name="trial 0",
        task="train",
        folder=str(tmp_path / "trial_0"),
        arguments={"behaviour": "sigkill_in_2", "checkpoints": str(checkpoints)},
    )
    with connect(cluster, ship=True) as executor:
        executor.submit(job)
        ended = ending_of(executor)
        assert (ended.reason, ended.died) == ("killed by SIGKILL (out of memory?)", True)
        assert [path.name for path in checkpoints.iterdir()] == ["history.json"]
        executor.submit(job)
        assert ending_of(executor).state == "finished"
    assert (tmp_path / "trial_0" / "epochs.txt").read_text() == "1\n2\n3\n"


def test_folders_on_a_full_disk_are_named(cluster, tmp_path, monkeypatch):
    with connect(cluster, ship=True) as executor:
        executor.submit(make_job(tmp_path))
        (tmp_path / "trial_0").rmdir()
        (tmp_path / "trial_0").write_text("")  # stands for it: root may write everywhere
        ended = ending_of(executor)
    assert ended.user_error
    assert ended.reason.startswith(f"UserError: the files of trial 0 must be kept in {tmp_path / 'trial_0'}, got: ")


def test_a_node_that_cannot_keep_files_says_why(cluster, tmp_path):
    folder = private_folder()
    folder.chmod(0o755)
    try:
        with connect(cluster, ship=True) as executor:
            executor.submit(make_job(tmp_path))
            ended = ending_of(executor)
    finally:
        folder.chmod(0o700)
    assert ended.user_error
    assert ended.reason == f"UserError: {folder} must be a folder of this user alone; remove it."


def test_a_node_that_does_not_answer_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "CANCEL_SECONDS", 0.0)
    with connect(cluster) as executor:
        job = make_job(tmp_path, "ignore_sigterm")
        executor.submit(job)
        pid = wait_for_pid(tmp_path / "trial_0" / "pid")
        while executor.wait(1.0):
            pass
        executor.cancel(job)
        assert ending_of(executor).state == "cancelled"
        wait_until_dead(pid)


def test_a_job_that_waits_for_a_node_is_cancelled_at_once(cluster, tmp_path):
    jobs = [make_job(tmp_path, "hang", name=f"trial {number}") for number in range(3)]
    with connect(cluster) as executor:
        for job in jobs:
            executor.submit(job)
        waiting = jobs[2]
        for number in range(2):
            wait_for_pid(tmp_path / f"trial_{number}" / "pid")
        started = time.monotonic()
        executor.cancel(waiting)
        assert ending_of(executor) == JobEnded(job=waiting, state="cancelled", reason="cancelled")
        assert time.monotonic() - started < 20  # those before it would take a minute


def test_a_dataset_is_shipped_once(cluster, tmp_path):
    tiny = write_tiny(tmp_path / "tiny", seed=time.time_ns() % 10**9)  # which no earlier test has left on the node
    job = make_job(tmp_path, "dataset")
    job.arguments["dataset"] = str(tiny.folder)
    with connect(cluster, ship=True) as executor:
        for _ in range(2):
            executor.submit(job)
            assert ending_of(executor).state == "finished"
        (shipped,) = executor._references.values()
    assert set(shipped) == {f"{split}.{kind}" for split in ("train", "val", "test") for kind in ("npy", "jsonl")} | {
        "manifest.json"
    }
    first, second = (Path(line) for line in (tmp_path / "trial_0" / "dataset.txt").read_text().splitlines())
    assert first == second != tiny.folder
    assert (first / "train.npy").read_bytes() == (tiny.folder / "train.npy").read_bytes()
    shutil.rmtree(first)


def test_a_real_training_on_a_node_that_sees_no_folder_of_ours(cluster, tmp_path):
    tiny = write_tiny(tmp_path / "tiny", seed=time.time_ns() % 10**9)
    config = TrainConfig(image_size=16, depth=2, filters=2, batch_size=4, epochs=1)
    folder, checkpoints = tmp_path / "trial_0", tmp_path / "trial_0.checkpoints"
    arguments = {"config": config.as_dict(), "dataset": str(tiny.folder), "checkpoints": str(checkpoints)}
    with connect(cluster, ship=True, tasks="experiments.jobs.tasks") as executor:
        executor.submit(Job(name="trial 0", task="train", folder=str(folder), arguments=arguments))
        deadline, events = time.monotonic() + 200, []
        while not (events and isinstance(events[-1], JobEnded)):
            assert time.monotonic() < deadline
            for event in executor.wait(1.0):
                events.append(event)
                if isinstance(event, JobReported):
                    executor.answer(event.job, True)
    reported, ended = events
    assert ended.state == "finished", ended.traceback
    assert (reported.report.epoch, ended.result["best_epoch"]) == (1, 1)
    # What came back is whole: the predictions give the score that was told, and a checkpoint to go on from is there.
    files = {path.name for path in folder.iterdir()}
    assert {"model.keras", "result.json", "history.csv", "log.txt", "panels", "val_predictions.npz"} <= files
    predicted = SplitPredictions.load(folder / "val_predictions.npz")
    assert float(predicted.dice.mean()) == pytest.approx(ended.result["val_dice"], abs=1e-4)
    assert any(checkpoints.iterdir())


@pytest.mark.parametrize("ship", [True, False], ids=["shipped", "shared"])
def test_a_node_that_dies_costs_an_attempt(cluster, tmp_path, ship, capfd):
    setting, gate = Setting(tmp_path), tmp_path / "gate"
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(tracking, "ray")

    class Held(RayExecutor):
        """Whose trials are in their fourth epoch until the node is dead, however fast or slow the machine is."""

        def submit(self, job: Job) -> None:
            job.arguments["behaviour"] = f"waits_for:{gate}"
            super().submit(job)

    def trained() -> list[int]:
        return [len(path.read_text().split()) for path in tmp_path.glob("studies/*/trial_*/epochs.txt")]

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not (len(trained()) == 2 and min(trained()) >= 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.kill_node()
        # What ran there may live a moment longer, and must not end before Ray has told of its death.
        deadline = time.monotonic() + 60
        while "its node or Ray's process on it died" not in setting.output.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        gate.touch()

    killer = threading.Thread(target=kill)
    with connect(cluster, of=Held, ship=ship) as executor:
        for number in range(2):  # both nodes are ready before the trials begin
            RayExecutor.submit(executor, make_job(tmp_path / "before", name=f"trial {number}"))
        run_to_end(executor, jobs=2)
        killer.start()
        result = run_study(
            study=setting.study,
            space=make_space(epochs=8),
            trials=2,
            manifest=make_manifest(tmp_path),
            workspace=tmp_path,
            storage=setting.storage,
            executor=executor,
            tracker=tracker,
            progress=Progress(setting.output),
        )
        tracker.end(result.run_id, "finished")
        killer.join()
        deadline = time.monotonic() + 60
        while executor.slots != 1:  # once Ray has noticed
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert "its node or Ray's process on it died" in setting.output.getvalue()
    check_history(setting.study, setting.storage, tracking, tmp_path, trials=2, kills=1)
    said = capfd.readouterr()
    assert said.out == ""
    assert "raylet" not in said.err


DRIVER = """
import sys
from pathlib import Path
from experiments.studies.driver import run_study
from experiments.executors.ray import RayExecutor
from experiments.command_line.interrupts import EXIT_CODE, Interrupted
from experiments.command_line.progress import Progress
from experiments.executors.slots import Share
from tests.study_setting import Setting, make_manifest, make_space

setting = Setting(folder := Path(sys.argv[2]))
options = {"share": Share(cpus=1, gpus=0), "packages": ("seg", "experiments", "tests"), "tasks": "tests.fake_tasks"}
with RayExecutor(sys.argv[1], **options) as executor:
    try:
        run_study(study=setting.study, space=make_space(), trials=2, manifest=make_manifest(folder), workspace=folder,
                  storage=setting.storage, executor=executor, tracker=setting.tracker, progress=Progress())
    except Interrupted:
        sys.exit(EXIT_CODE)
"""


@pytest.fixture
def driver(cluster, tmp_path):
    """A driver whose two trials hang and ignore SIGTERM, and the processes of these."""
    setting = Setting(tmp_path)
    setting.plan(dict.fromkeys(range(10), "ignore_sigterm"))
    process = subprocess.Popen([sys.executable, "-c", DRIVER, cluster.address, str(tmp_path)])
    while len(found := list(tmp_path.glob("studies/*/trial_*/pid"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    yield process, [wait_for_pid(path) for path in found], setting
    process.kill()


def test_sigterm_ends_within_twenty_seconds(driver):
    process, workers, setting = driver
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert time.monotonic() - started < 20
    assert not any(is_alive(pid) for pid in workers)
    assert setting.optuna_states() == ["WAITING", "WAITING"]


def test_no_job_outlives_a_driver_that_is_killed(driver):
    process, workers, _ = driver
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_node_has_room(cluster):
    with pytest.raises(UserError, match=r"must have 3 CPUs and 0 GPUs free .* has: 1 CPUs and 0 GPUs, 1 CPUs and 0"):
        connect(cluster, share=Share(cpus=3, gpus=0))
    with connect(cluster, slots=1) as executor:  # the connection was ended
        assert executor.slots == 1


@pytest.mark.timeout(600)
def test_a_study_by_its_command(cluster, tmp_path):
    write_demo(tmp_path / "export", train=4, valid=2, test=2)
    options = {
        "data": tmp_path / "export",
        "workspace": tmp_path / "workspace",
        "storage": f"sqlite:///{tmp_path / 'optuna.db'}",
        "executor": "ray",
        "ray_address": cluster.address,
        "slots": 2,
        "image_size": 32,
        "filters": 4,
        "depth": 2,
        "epochs": 2,
        "loss": "bce,dice",
    }
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.study", *(f"--{name}={value}" for name, value in options.items())]
    commit = git_commit() or ""
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("best: trial ")
    assert len(done.stdout.splitlines()) == 1
    assert "forecast: 2 trials in all, of up to 2 epochs, 2 trials at a time, 1 core each" in done.stderr
    noise = [line for line in done.stderr.splitlines() if re.search(r"\b[Rr]ay(let)?\b|WARNING", line)]
    assert noise == []
    recorded = [
        json.loads(path.read_text()) for path in tmp_path.glob("workspace/studies/unet/trial_*/environment.json")
    ]
    assert [each["flags"]["TF_NUM_INTRAOP_THREADS"] for each in recorded] == ["1", "1"]
    assert {each["git_commit"] for each in recorded} == {commit}
    assert {"experiments/jobs/tasks.py", "seg/training/fit.py"} <= recorded[0]["code"].keys()
