"""Drivers as processes: killed, interrupted, two at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.studies.study_result import trial_folder
from seg.errors import UserError
from tests.executor_contract import wait_for_pid, wait_until_dead
from tests.study_setting import Setting

PROMISED = 20  # seconds between SIGTERM and the end of a settled driver, as batch systems grant them


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


class Driver:
    """A driver in a process of its own."""

    def __init__(self, setting: Setting, trials: int, slots: int = 1) -> None:
        command = [sys.executable, "-m", "tests.study_setting", str(setting.folder), str(trials), str(slots)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


def worker_of(setting: Setting, number: int) -> int:
    folder = trial_folder(Path(setting.folder), "losses", number, f"run-losses-{number}")
    return wait_for_pid(folder / "pid")


def test_a_killed_driver_leaves_nothing_running_and_the_study_goes_on(setting):
    setting.plan({1: "hang", 2: "hang"})
    driver = Driver(setting, trials=4, slots=2)
    workers = [worker_of(setting, number) for number in (1, 2)]
    driver.process.send_signal(signal.SIGKILL)
    driver.end()
    for worker in workers:
        wait_until_dead(worker, seconds=10)
    assert setting.optuna_states() == ["COMPLETE", "RUNNING", "RUNNING"]
    setting.plan({})
    result = setting.run(4)
    assert setting.optuna_states() == ["COMPLETE"] * 4
    assert set(setting.tracker.states().values()) == {"running", "finished"}  # the study's run is left to the caller
    assert setting.tracker.states()["run-losses-1"] == "finished"
    arms = {(row.config.loss, row.config.filters) for row in result.rows if row.state == "finished"}
    assert len(arms) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_settles_everything(setting, number):
    setting.plan({1: "hang", 2: "hang"})
    driver = Driver(setting, trials=4, slots=2)
    workers = [worker_of(setting, trial) for trial in (1, 2)]
    driver.process.send_signal(number)
    sent = time.monotonic()
    code, errors = driver.end()
    assert code == 130
    assert time.monotonic() - sent < PROMISED
    assert "run the same command again and study 'losses' goes on where it stopped" in errors
    assert "Traceback" not in errors
    for worker in workers:
        wait_until_dead(worker, seconds=10)
    assert setting.optuna_states() == ["COMPLETE", "WAITING", "WAITING"]
    assert setting.tracker.states() == {
        "run-losses": "cancelled",
        "run-losses-0": "finished",
        "run-losses-1": "waiting",
        "run-losses-2": "waiting",
    }
    setting.plan({})
    setting.run(4)
    assert setting.optuna_states() == ["COMPLETE"] * 4


def test_ctrl_c_under_mlflow_run_settles_everything(setting):
    # MLflow's own process hears Ctrl-C too, and sends SIGTERM at once.
    setting.plan({0: "ignore_sigterm"})
    driver = Driver(setting, trials=1)
    worker_of(setting, 0)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(1)
    driver.process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    assert driver.end()[0] == 130
    assert time.monotonic() - sent < PROMISED  # the worker that ignores the signal is killed
    assert setting.optuna_states() == ["WAITING"]
    assert setting.tracker.states() == {"run-losses": "cancelled", "run-losses-0": "waiting"}


def test_a_second_interrupt_ends_at_once(setting):
    setting.plan({0: "ignore_sigterm"})
    driver = Driver(setting, trials=1)
    worker = worker_of(setting, 0)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert driver.process.poll() is None  # it waits for the worker, which ignores SIGTERM for five seconds
    started = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    assert driver.end()[0] == 130
    assert time.monotonic() - started < 3.5  # of the five seconds one is over
    wait_until_dead(worker, seconds=10)


def test_a_second_driver_of_the_same_study_is_refused(setting):
    setting.plan({0: "hang"})
    driver = Driver(setting, trials=1)
    worker_of(setting, 0)
    with pytest.raises(UserError, match="another process is running 'losses'"):
        setting.run(1)
    other = Setting(setting.folder, study="other")
    assert other.run(1).counts == {"finished": 1}
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.end()
