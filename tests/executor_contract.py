"""What every executor promises. A test module subclasses `ExecutorContract` and gives the fixture `executor`.

The executor has two slots and runs tests/fake_tasks.py.
"""

import time
from pathlib import Path

import pytest

from experiments.executors.base import Executor
from experiments.jobs.messages import Job, JobEnded, JobEvent, JobReported

DEADLINE = 60.0


def make_job(folder: Path, behaviour: str = "", name: str = "trial 0") -> Job:
    return Job(name=name, task="train", folder=str(folder / name.replace(" ", "_")), arguments={"behaviour": behaviour})


def run_to_end(executor: Executor, jobs: int = 1, go_on: bool = True) -> list[JobEvent]:
    """Answers every report and returns all events once that many jobs have ended."""
    events: list[JobEvent] = []
    deadline = time.monotonic() + DEADLINE
    while sum(isinstance(event, JobEnded) for event in events) < jobs:
        assert time.monotonic() < deadline, f"no end within {DEADLINE} s, only {events}"
        for event in executor.wait(0.5):
            events.append(event)
            if isinstance(event, JobReported):
                executor.answer(event.job, go_on)
    return events


def ending_of(executor: Executor) -> JobEnded:
    event = run_to_end(executor)[-1]
    assert isinstance(event, JobEnded)
    return event


def wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + DEADLINE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pid: int, seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.05)


class ExecutorContract:
    def test_reports_in_order_then_result(self, executor, tmp_path):
        executor.submit(make_job(tmp_path))
        *reports, ended = run_to_end(executor)
        assert [event.report.epoch for event in reports] == [1, 2, 3]
        assert reports[0].job.name == "trial 0"
        assert (ended.state, ended.reason, ended.traceback) == ("finished", "", "")
        assert ended.result["stop_reason"] == "epochs"
        assert ended.result["val_dice"] == pytest.approx(0.508)  # bce 0.5, filters 8/1000, seed 0
        assert (tmp_path / "trial_0" / "model.keras").exists()

    def test_the_job_waits_for_the_answer(self, executor, tmp_path):
        executor.submit(make_job(tmp_path))
        first = []
        while not first:
            first = executor.wait(5)
        assert executor.wait(0.5) == []
        executor.answer(first[0].job, False)
        assert ending_of(executor).result["stop_reason"] == "pruned"

    def test_stop_ends_finished(self, executor, tmp_path):
        executor.submit(make_job(tmp_path))
        events = run_to_end(executor, go_on=False)
        assert len(events) == 2
        assert events[-1].state == "finished"
        assert events[-1].result["best_epoch"] == 1

    def test_two_jobs_at_once(self, executor, tmp_path):
        assert executor.slots == 2
        for number in range(2):
            executor.submit(make_job(tmp_path, name=f"trial {number}"))
        ended = [event for event in run_to_end(executor, jobs=2) if isinstance(event, JobEnded)]
        assert sorted(event.job.name for event in ended) == ["trial 0", "trial 1"]
        assert {event.state for event in ended} == {"finished"}

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [
            ("raise", "RuntimeError: the task went wrong"),
            ("memory_error", "MemoryError"),
            ("sigkill", "killed by SIGKILL (out of memory?)"),
            ("segfault", "killed by SIGSEGV"),
            ("exit", "exited with code 7 before it returned"),
            ("garbage", "sent something that is not a message: b'not a message'"),
        ],
    )
    def test_failures_are_named(self, executor, tmp_path, behaviour, reason):
        executor.submit(make_job(tmp_path, behaviour))
        ended = ending_of(executor)
        assert (ended.state, ended.reason, ended.user_error) == ("failed", reason, False)
        assert ended.traceback

    def test_exception_carries_its_traceback(self, executor, tmp_path):
        executor.submit(make_job(tmp_path, "raise"))
        traceback = ending_of(executor).traceback
        assert "fake_tasks.py" in traceback
        assert "second line" in traceback

    def test_user_error_is_marked(self, executor, tmp_path):
        executor.submit(make_job(tmp_path, "user_error"))
        ended = ending_of(executor)
        assert ended.user_error
        assert ended.reason == "UserError: batch_size must be at least 1, got 0."

    def test_slot_is_free_after_a_failure(self, executor, tmp_path):
        executor.submit(make_job(tmp_path, "sigkill"))
        assert ending_of(executor).state == "failed"
        executor.submit(make_job(tmp_path, name="trial 1"))
        assert ending_of(executor).state == "finished"

    @pytest.mark.parametrize("behaviour", ["hang", "ignore_sigterm"])
    def test_cancel(self, executor, tmp_path, behaviour):
        job = make_job(tmp_path, behaviour)
        executor.submit(job)
        pid = wait_for_pid(tmp_path / "trial_0" / "pid")
        executor.cancel(job)
        executor.cancel(job)
        assert ending_of(executor).state == "cancelled"
        wait_until_dead(pid)

    def test_a_result_outweighs_a_cancellation(self, executor, tmp_path):
        """The job heard of it at its very end, and had something better to do."""
        job = make_job(tmp_path, "finishes_late")
        executor.submit(job)
        while not (tmp_path / "trial_0" / "pid").exists():
            for event in executor.wait(0.05):
                executor.answer(event.job, True)
        executor.cancel(job)
        ended = ending_of(executor)
        assert ended.state == "finished"
        assert ended.result["best_epoch"] == 3

    def test_no_events_without_jobs(self, executor):
        started = time.monotonic()
        assert executor.wait(0.3) == []
        assert time.monotonic() - started >= 0.25

    def test_children_of_a_job_end_with_it(self, executor, tmp_path):
        executor.submit(make_job(tmp_path, "child"))
        assert ending_of(executor).state == "finished"
        wait_until_dead(int((tmp_path / "trial_0" / "pid").read_text()))

    def test_close_leaves_no_process(self, executor, tmp_path):
        executor.submit(make_job(tmp_path, "ignore_sigterm"))
        pid = wait_for_pid(tmp_path / "trial_0" / "pid")
        executor.close()
        assert not is_alive(pid)
