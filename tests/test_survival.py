"""Processes are killed at random moments until a study has survived enough of it; then its history is checked."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest

from experiments.storage.study_store import StudyStore
from experiments.tracking.tracker import Tracker
from tests.history import check_history
from tests.study_setting import Setting

KILLS, TRIALS, SLOTS = 20, 4, 2
DEADLINE = 240


class Survivor:
    """A study whose drivers are programs, with real databases for Optuna and MLflow."""

    def __init__(self, folder: Path) -> None:
        self.setting = Setting(folder)
        self.setting.plan(dict.fromkeys(range(50), "slow"))
        self.tracking = f"sqlite:///{folder / 'mlflow.db'}"
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.study_setting", str(self.setting.folder), str(TRIALS), str(SLOTS)]
        with (self.setting.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen([*command, self.tracking], stdout=log, stderr=log)

    def servers(self) -> list[psutil.Process]:
        assert self.driver is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.driver.pid).children()
            return [child for child in children if "experiments.jobs.fork_server" in child.cmdline()]
        return []

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [worker for server in self.servers() for worker in server.children()]
        return []

    def kill(self, target: str) -> int:
        """Kills and returns how many processes died of it: 0 if the fault did not fire."""
        assert self.driver is not None
        victims = [worker.pid for worker in self.workers()]
        if target == "worker":
            victims = victims[:1]
        elif target == "driver":
            victims = [self.driver.pid]
        elif target == "server":
            victims += [server.pid for server in self.servers()]  # its workers would end with it
        else:
            victims.append(self.driver.pid)
        killed = 0
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed += 1
        if target in ("driver", "everything"):
            self.driver.wait(30)
        return killed


class Death(BaseException):
    """Stands for a SIGKILL: nothing that is left to do happens."""


@pytest.mark.parametrize("experiment", ["survival", "another"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [(StudyStore, "run_key"), (Tracker, "start_study"), (StudyStore, "set_parent_run")],
    ids=["before its key is noted", "before its run is made", "before its run is noted"],
)
def test_a_driver_that_dies_as_its_study_starts_leaves_no_run_behind(tmp_path, monkeypatch, owner, step, experiment):
    setting, tracking = Setting(tmp_path), f"sqlite:///{tmp_path / 'mlflow.db'}"

    def die(*arguments, **named):
        raise Death

    def drive(experiment):
        with Tracker(tracking, experiment, tmp_path, "study_losses") as setting.tracker:
            result = setting.run(1)
            setting.tracker.end(result.run_id, "finished")

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, die)
        with pytest.raises(Death):
            drive("survival")
    drive(experiment)
    check_history("losses", setting.storage, tracking, tmp_path, trials=1, kills=0)
    client = mlflow.MlflowClient(tracking)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert len(runs) == 2  # in all experiments


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_survives_random_kills(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEG_KILL_SEED", time.time_ns() % 10**6))
    print(f"again with SEG_KILL_SEED={seed}")  # shown when the test fails
    chance = random.Random(seed)
    survivor = Survivor(tmp_path)
    survivor.start()
    faults, killed, started = 0, 0, time.monotonic()
    while faults < KILLS and time.monotonic() - started < DEADLINE:
        time.sleep(chance.uniform(0.0, 1.5))
        target = chance.choices(["worker", "driver", "everything", "server"], [6, 2, 1, 1])[0]
        died = survivor.kill(target) if target not in ("worker", "server") or survivor.workers() else 0
        faults, killed = faults + (died > 0), killed + died
        if survivor.driver is not None and survivor.driver.poll() is not None:
            survivor.start()
    assert faults >= KILLS / 2, f"only {faults} faults fired"  # a slow machine fires fewer
    for _ in range(3):  # a trial may have used up its attempts
        assert survivor.driver is not None
        survivor.driver.wait(120)
        if survivor.driver.returncode == 0:
            break
        survivor.start()
    log = (tmp_path / "driver.log").read_text()
    assert survivor.driver is not None
    assert survivor.driver.returncode == 0, log
    check_history("losses", survivor.setting.storage, survivor.tracking, tmp_path, TRIALS, killed)
