"""Jobs that are forked from one process: what they share, and what becomes of them when it fails."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from experiments.executors import forking
from experiments.executors.forking import can_fork
from experiments.executors.local import LocalExecutor, local_forks
from experiments.jobs import fork_server
from experiments.jobs.environment import Environment
from experiments.jobs.fork_server import ForkServer, is_safe_to_fork
from experiments.jobs.messages import Job
from seg.config import TrainConfig
from tests.executor_contract import ending_of, is_alive, make_job, run_to_end, wait_for_pid, wait_until_dead

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
TASKS = "tests.fake_tasks"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def write_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch, first_lines: str) -> str:
    """A module whose import runs these lines, and which does what tests/fake_tasks.py does."""
    (folder / "other_tasks.py").write_text(f"{first_lines}\nfrom tests.fake_tasks import run\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "other_tasks"


def told_of_one_request() -> bytes:
    """What a server in this process tells of the only job that it is asked for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    with theirs:
        with ours:
            socket.send_fds(ours, [b"{}"], [write] * 4)
        os.close(write)
        ForkServer(TASKS, theirs).serve()
    with os.fdopen(read, "rb") as status:
        return status.read()


class TestForked:
    def test_all_from_one_process(self, tmp_path):
        with LocalExecutor(2, tasks=TASKS, ahead=True) as executor:
            for number in range(2):
                executor.submit(make_job(tmp_path, "hang", f"trial {number}"))
            first, second = (wait_for_pid(tmp_path / f"trial_{number}" / "pid") for number in range(2))
            server = parent_of(first)
            assert server == parent_of(second) != os.getpid()
            assert len({os.getpgid(pid) for pid in (first, second, server, os.getpid())}) == 4
            assert os.getsid(first) == os.getsid(second) == server != os.getsid(0)
        assert not any(map(is_alive, (first, second, server)))

    def test_no_file_of_another_job_or_of_the_server(self, tmp_path):
        with LocalExecutor(2, tasks=TASKS) as executor:
            for number in range(2):
                executor.submit(make_job(tmp_path, "hang", f"trial {number}"))
                pid = wait_for_pid(tmp_path / f"trial_{number}" / "pid")
            targets = [os.readlink(f"/proc/{pid}/fd/{file}") for file in os.listdir(f"/proc/{pid}/fd")]
        log = str(tmp_path / "trial_1" / "log.txt")
        assert sorted(target.partition(":")[0] for target in targets) == ["/dev/null", log, log, "pipe", "pipe"]

    def test_a_job_cancelled_while_the_server_imports(self, tmp_path, monkeypatch):
        tasks = write_tasks(tmp_path, monkeypatch, "import time; time.sleep(60)")
        with LocalExecutor(1, tasks=tasks) as executor:
            job = make_job(tmp_path)
            executor.submit(job)
            assert executor.wait(0.5) == []
            executor.cancel(job)
            assert ending_of(executor).state == "cancelled"

    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    def test_closed_right_after_a_job_was_submitted(self, tmp_path, monkeypatch, seconds):
        tasks = write_tasks(tmp_path, monkeypatch, f"import time; time.sleep({seconds})")
        for number in range(3):
            executor = LocalExecutor(1, tasks=tasks)
            if number:  # else it is closed while the server imports
                executor.submit(make_job(tmp_path, name=f"first {number}"))
                run_to_end(executor)
            executor.submit(make_job(tmp_path, "ignore_sigterm", f"last {number}"))
            closed = time.monotonic()
            executor.close()
            assert time.monotonic() - closed < 20  # the job would take a minute

    def test_a_job_cancelled_before_its_fork_leaves_the_server_to_the_others(self, tmp_path, monkeypatch):
        tasks = write_tasks(tmp_path, monkeypatch, "import time; time.sleep(1)")
        with LocalExecutor(2, tasks=tasks) as executor:
            first, second = (make_job(tmp_path, "hang", name=f"trial {number}") for number in range(2))
            executor.submit(first)
            executor.submit(second)
            executor.cancel(first)
            ended = ending_of(executor)
            assert (ended.job, ended.state) == (first, "cancelled")
            assert parent_of(wait_for_pid(tmp_path / "trial_1" / "pid")) == executor._forks.server().pid

    def test_an_import_that_fails_is_told_as_it_failed(self, tmp_path, monkeypatch):
        """A second attempt in the same process would fail otherwise, as that of a module that is half loaded."""
        first = "import sys; first = not hasattr(sys, 'tried'); sys.tried = True"
        tasks = write_tasks(tmp_path, monkeypatch, f"{first}\nraise ImportError('the cause' if first else 'another')")
        with LocalExecutor(1, tasks=tasks) as executor:
            executor.submit(make_job(tmp_path))
            assert "the cause" in ending_of(executor).traceback


class TestSeveralExecutors:
    def test_one_server_forks_for_all_of_them(self, tmp_path):
        parents = []
        with contextlib.closing(local_forks(tasks=TASKS)) as forks:
            for threads in (1, 2):
                with LocalExecutor(1, threads=threads, forks=forks) as executor:
                    job = make_job(tmp_path, "hang", f"trial {threads}")
                    executor.submit(job)
                    pid = wait_for_pid(tmp_path / f"trial_{threads}" / "pid")
                    parents.append(parent_of(pid))
                wait_until_dead(pid)  # with its executor, and not with the server
            server = forks.server().pid
            assert parents == [server, server]
        wait_until_dead(server)

    @pytest.mark.slow
    def test_each_has_threads_of_its_own(self, tmp_path):
        found = []
        with contextlib.closing(local_forks(tasks="tests.count_threads")) as forks:
            for threads in (1, 6):
                with LocalExecutor(1, threads=threads, forks=forks) as executor:
                    executor.submit(make_job(tmp_path, name=f"trial {threads}"))
                    ended = ending_of(executor)
                    assert ended.state == "finished", ended.traceback
                    found.append(ended.result["threads"])
        assert found[1] - found[0] == 2 * (6 - 1)  # within an operation, and between operations


class TestDeathOfTheServer:
    def test_between_two_jobs(self, tmp_path):
        with LocalExecutor(1, tasks=TASKS) as executor:
            executor.submit(make_job(tmp_path))
            run_to_end(executor)
            server = executor._forks.server().pid
            os.kill(server, signal.SIGKILL)
            wait_until_dead(server)
            executor.submit(make_job(tmp_path, "hang", "trial 1"))
            forked = wait_for_pid(tmp_path / "trial_1" / "pid")
            assert parent_of(forked) == executor._forks.server().pid

    def test_takes_the_running_jobs_along(self, tmp_path):
        with LocalExecutor(1, tasks=TASKS) as executor:
            executor.submit(make_job(tmp_path, "hang"))
            forked = wait_for_pid(tmp_path / "trial_0" / "pid")
            os.kill(executor._forks.server().pid, signal.SIGKILL)
            ended = ending_of(executor)
            assert (ended.state, ended.reason, ended.died) == ("failed", "killed by SIGKILL (out of memory?)", True)
            wait_until_dead(forked)
            executor.submit(make_job(tmp_path, name="trial 1"))
            assert ending_of(executor).state == "finished"

    def test_while_it_imports_is_told_by_a_process_of_the_job(self, tmp_path, monkeypatch):
        tasks = write_tasks(tmp_path, monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        with LocalExecutor(1, tasks=tasks) as executor:
            executor.submit(make_job(tmp_path))
            ended = ending_of(executor)
        assert ended.reason == "killed by SIGSEGV"
        assert "Segmentation fault" in ended.traceback


class TestWhereForkingIsNotSafe:
    def test_a_thread_of_an_import_has_each_job_import_for_itself(self, tmp_path, monkeypatch):
        started = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
        tasks = write_tasks(tmp_path, monkeypatch, started)
        with LocalExecutor(1, gpus=("3",), tasks=tasks) as executor:
            for number in range(2):
                executor.submit(make_job(tmp_path, name=f"trial {number}"))
                assert ending_of(executor).state == "finished"
            executor.submit(make_job(tmp_path, "hang", "trial 2"))
            assert parent_of(wait_for_pid(tmp_path / "trial_2" / "pid")) == os.getpid()

    def test_an_open_gpu(self, monkeypatch):
        monkeypatch.setattr(os, "listdir", lambda path: ["1"])  # one thread; pytest's plugins may have more
        assert is_safe_to_fork()
        monkeypatch.setattr(fork_server, "_open_files", lambda: ["/dev/null", "/dev/nvidiactl"])
        assert not is_safe_to_fork()

    def test_a_fork_that_fails_is_told(self, monkeypatch):
        def fail() -> int:
            raise OSError("no more processes")

        monkeypatch.setattr(os, "fork", fail)
        assert told_of_one_request() == b""  # no process, and nobody left who could tell of one

    def test_a_process_that_cannot_be_watched_is_ended(self, monkeypatch):
        def fail(pid: int) -> int:
            raise OSError("too many open files")

        waits = subprocess.Popen(["sleep", "60"])
        monkeypatch.setattr(os, "fork", lambda: waits.pid)
        monkeypatch.setattr(os, "pidfd_open", fail)
        assert told_of_one_request() == b""
        assert not is_alive(waits.pid)
        waits.returncode = -signal.SIGKILL  # the server has reaped it

    def test_a_kernel_that_cannot(self, monkeypatch):
        assert can_fork()

        def fail(pid: int) -> int:
            raise OSError("not implemented")

        monkeypatch.setattr(os, "pidfd_open", fail)
        assert not can_fork()

    def test_a_system_without(self, tmp_path, monkeypatch):
        monkeypatch.setattr(forking, "can_fork", lambda: False)
        with LocalExecutor(1, tasks=TASKS, ahead=True) as executor:
            executor.submit(make_job(tmp_path, "hang"))
            assert parent_of(wait_for_pid(tmp_path / "trial_0" / "pid")) == os.getpid()


@pytest.mark.slow
def test_a_forked_process_trains_bit_for_bit_as_a_fresh_one(tmp_path, tiny, monkeypatch):
    """With the threads of a slot, and on two logical devices."""
    config = TrainConfig(image_size=16, depth=1, filters=2, batch_size=4, epochs=2, augmentation="full")
    weights = {}
    for forked in (True, False):
        monkeypatch.setattr(forking, "can_fork", lambda forked=forked: forked)
        with LocalExecutor(1, threads=1) as executor:
            for devices in ("auto", "cpu:2"):
                folder = tmp_path / f"{devices}_{forked}"
                arguments = {"config": config.as_dict() | {"devices": devices}, "dataset": str(tiny.folder)}
                executor.submit(Job(name=devices, task="train", folder=str(folder), arguments=arguments))
                assert ending_of(executor).state == "finished"
                environment = Environment.read((folder / "environment.json").read_text(encoding="utf-8"))
                assert environment.threads == {"intra_op": 0, "inter_op": 0}
                assert environment.flags["TF_NUM_INTRAOP_THREADS"] == "1"
                assert environment.devices == (("CPU", "CPU") if devices == "cpu:2" else ("CPU",))
                weights[devices, forked] = keras.models.load_model(folder / "model.keras", compile=False).get_weights()
    for devices in ("auto", "cpu:2"):
        pairs = zip(weights[devices, True], weights[devices, False], strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_it_imports_while_the_driver_does_something_else(tmp_path, monkeypatch):
    tasks = write_tasks(tmp_path, monkeypatch, f"open({str(tmp_path / 'imported')!r}, 'w').close()")
    with LocalExecutor(1, tasks=tasks, ahead=True):
        deadline = time.monotonic() + 60
        while not (tmp_path / "imported").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
