import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.executors import forking, local
from experiments.executors.local import LocalExecutor
from experiments.jobs.messages import Job
from tests.executor_contract import (
    ExecutorContract,
    ending_of,
    make_job,
    run_to_end,
    wait_for_pid,
    wait_until_dead,
)

TASKS = "tests.fake_tasks"


@pytest.fixture(params=[True, False], ids=["forked", "fresh"], autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    monkeypatch.setattr(forking, "can_fork", lambda: request.param)
    return bool(request.param)


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, monkeypatch, forks):
        monkeypatch.setattr(local, "GRACE_SECONDS", 0.5)
        with LocalExecutor(2, tasks=TASKS) as executor:
            yield executor


def test_what_cannot_be_prepared_is_told_by_the_job(tmp_path, monkeypatch):
    (tmp_path / "broken_tasks.py").write_text("def prepare():\n    raise RuntimeError('no driver')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalExecutor(1, tasks="broken_tasks") as executor:
        executor.submit(make_job(tmp_path))
        ended = ending_of(executor)
    assert (ended.reason, ended.died) == ("RuntimeError: no driver", False)


def test_noise_goes_into_the_log(tmp_path, capfd):
    with LocalExecutor(1, tasks=TASKS) as executor:
        executor.submit(make_job(tmp_path))
        run_to_end(executor)
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "trial_0" / "log.txt").read_text()
    assert "library noise on stdout" in log
    assert "library noise on stderr" in log


def test_a_worker_that_dies_before_it_says_anything(tmp_path):
    with LocalExecutor(1, tasks="tests.no_such_module") as executor:
        executor.submit(make_job(tmp_path))
        ended = ending_of(executor)
    assert ended.reason == "ModuleNotFoundError: No module named 'tests.no_such_module'"


@pytest.mark.parametrize(
    "garbage", ["", "5", "[1]", '"report"', '{"failed": 5}', '{"finished": 5}', '{"report": {"epoch": 1}}', "[" * 50000]
)
def test_whatever_is_no_message_fails_the_job(tmp_path, garbage):
    arguments = {"behaviour": "garbage", "garbage": garbage}
    with LocalExecutor(1, tasks=TASKS) as executor:
        executor.submit(Job(name="trial 0", task="train", folder=str(tmp_path), arguments=arguments))
        ended = ending_of(executor)
    assert ended.state == "failed"
    assert ended.reason.startswith("sent something that is not a message: b'")
    assert len(ended.reason) < 130


def test_a_folder_that_cannot_be_made_fails_the_job(tmp_path):
    (tmp_path / "file").write_text("")
    job = Job(name="trial 0", task="train", folder=str(tmp_path / "file" / "trial"), arguments={})
    with LocalExecutor(1, tasks=TASKS) as executor:
        executor.submit(job)
        ended = ending_of(executor)
    assert ended.state == "failed"
    assert ended.reason.startswith("could not be started: ")


def test_each_slot_has_its_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with LocalExecutor(2, gpus=("0,1", "2,3"), tasks=TASKS) as executor:
        for number in range(2):
            executor.submit(make_job(tmp_path, "hang", f"trial {number}"))
        seen = [_variables_of(tmp_path / f"trial_{number}")["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    assert seen == ["0,1", "2,3"]


def _variables_of(folder: Path) -> dict[str, str]:
    wait_for_pid(folder / "pid")
    return json.loads((folder / "variables.json").read_text())


def test_threads_are_limited(tmp_path):
    with LocalExecutor(1, threads=3, environment={"SEG_TEST": "yes"}, tasks=TASKS) as executor:
        executor.submit(make_job(tmp_path, "hang"))
        variables = _variables_of(tmp_path / "trial_0")
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "SEG_TEST")
    assert [variables[name] for name in names] == ["3", "3", "3", "yes"]


def test_gpus_must_fit_the_slots():
    with pytest.raises(ValueError, match="each of the 2 slots, got 1"):
        LocalExecutor(2, gpus=("0",))


DRIVER = """
import sys
from pathlib import Path
from experiments.executors.local import LocalExecutor
from tests.executor_contract import make_job
executor = LocalExecutor(1, tasks="tests.fake_tasks")
executor.submit(make_job(Path(sys.argv[1]), sys.argv[2]))
executor.wait(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("behaviour", ["hang", "ignore_sigterm"])
def test_no_orphan_outlives_the_driver(tmp_path, behaviour):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), behaviour])
    worker = wait_for_pid(tmp_path / "trial_0" / "pid")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until_dead(worker, seconds=5)
