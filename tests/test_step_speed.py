"""The speed of training: steps that were made, in the seconds that they took."""

import time
from pathlib import Path

import pytest

from experiments.jobs.messages import Job
from experiments.jobs.tasks import run
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError

CONFIG = TrainConfig(image_size=16, filters=4, depth=1, batch_size=4)


def job(folder: Path, manifest: Manifest, config: TrainConfig, seconds: float) -> Job:
    arguments = {"config": config.as_dict(), "dataset": str(manifest.folder), "seconds": seconds}
    return Job(name="speed 1 of 1", task="speed", folder=str(folder), arguments=arguments)


def test_images_per_second(tiny: Manifest, tmp_path: Path) -> None:
    ready: list[float] = []

    def report(epoch: object) -> bool:
        time.sleep(0.5)  # others are not ready yet
        ready.append(time.perf_counter())
        return True

    found = run(job(tmp_path, tiny, CONFIG, 1.0), report)
    assert len(ready) == 1
    assert 1.0 <= time.perf_counter() - ready[0] < 30
    assert found["images_per_second"] > 4  # two steps a second: a step of this takes milliseconds
    assert (found["batch_size"], found["replicas"]) == (4, 1)
    # Adam keeps two moments of each weight; BatchNorm's statistics have none.
    assert 2 < found["checkpoint_bytes"] / found["model_bytes"] < 3.2
    assert list(tmp_path.iterdir()) == []


def test_two_steps_at_least(tiny: Manifest, tmp_path: Path) -> None:
    assert run(job(tmp_path, tiny, CONFIG, 0.0), lambda report: True)["images_per_second"] > 0


def test_a_batch_that_is_too_large(tiny: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a batch must not be larger than the training split, which holds 13 images"):
        run(
            job(tmp_path, tiny, TrainConfig(image_size=16, filters=4, depth=1, batch_size=14), 0.0), lambda report: True
        )
