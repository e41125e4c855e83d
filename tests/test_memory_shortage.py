"""What is said of a training that ran out of memory: of every way to say so, and of a real one."""

from pathlib import Path

import pytest

from experiments.executors.local import LocalExecutor
from experiments.jobs.memory_shortage import with_remedy
from experiments.jobs.messages import Job
from experiments.jobs.one_job import JobFailed, run_job
from seg.config import TrainConfig
from seg.data.manifest import Manifest

REMEDY = "; if memory is short, use batch_size 5 or fewer filters"


@pytest.mark.parametrize(
    ("reason", "traceback"),
    [
        ("MemoryError", ""),
        ("killed by SIGKILL (out of memory?)", ""),
        ("ResourceExhaustedError: Graph execution error:", ""),
        ("InternalError: Graph execution error:", "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte."),
        ("InternalError: failed call to cuInit: CUDA_ERROR_OUT_OF_MEMORY: out of memory", ""),
        ("killed by SIGABRT", "terminate called after throwing an instance of 'std::bad_alloc'"),
    ],
)
def test_memory_may_be_short(reason: str, traceback: str) -> None:
    assert with_remedy(reason, traceback, batch_size=10) == reason + REMEDY


def test_anything_else_stays_as_it_is() -> None:
    assert with_remedy("killed by SIGSEGV", "Fatal Python error", batch_size=10) == "killed by SIGSEGV"


def test_a_batch_of_one_cannot_be_halved() -> None:
    assert with_remedy("MemoryError", "", batch_size=1) == "MemoryError; if memory is short, use fewer filters"


@pytest.mark.slow
def test_a_training_for_which_tensorflow_has_no_memory(tiny: Manifest, tmp_path: Path) -> None:
    """Weights of 9 · 2¹⁸ · 2¹⁸ · 4 bytes, 2.5 TB, where a process may have 64 GiB: TensorFlow's own exception."""
    config = TrainConfig(image_size=16, depth=2, filters=2**18, epochs=1)
    arguments = {"config": config.as_dict(), "dataset": str(tiny.folder)}
    job = Job(name="training", task="train", folder=str(tmp_path / "run"), arguments=arguments)
    with (
        LocalExecutor(1, tasks="tests.short_of_memory") as executor,
        pytest.raises(JobFailed, match=rf"^training failed: ResourceExhaustedError: .*{REMEDY} \(.*log\.txt\)"),
    ):
        run_job(executor, job)
