"""How many trials at a time are fastest: jobs in processes, whose speeds are made up."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.executors.local import LocalExecutor
from experiments.executors.slot_speed import Speed, describe, fastest, key_of, remember, remembered
from experiments.executors.slots import Division, Machine, Share, candidates
from experiments.jobs.one_job import JobFailed
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError

EIGHT_CORES = [Machine(cpus=8, gpus=0)]
DIVISIONS = candidates(EIGHT_CORES, None, trials=100)
CONFIG = TrainConfig(image_size=16, depth=2, loss="bce")


def open_executor(division: Division) -> LocalExecutor:
    return LocalExecutor(division.slots, threads=division.share.cpus, tasks="tests.fake_speed")


def test_slots_while_they_gain(tiny: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fastest(DIVISIONS, CONFIG, tiny, open_executor, tmp_path)
    assert found.division == Division(slots=2, share=Share(cpus=4, gpus=0))  # four gain 3 %, and eight are not tried
    assert found.images_per_second == 14.0
    assert (found.model_bytes, found.checkpoint_bytes) == (100, 300)
    assert found.start_seconds == 0.6  # of the second job
    assert capsys.readouterr().err.splitlines() == [
        "measured: 1 trial at a time, 8 cores: 10.0 images per second",
        "measured: 2 trials at a time, 4 cores each: 14.0 images per second",
        "measured: 4 trials at a time, 2 cores each: 14.4 images per second",
    ]
    # All measure at the same time: none begins before the last is ready.
    jobs = [tmp_path / f"speed_{number}_of_4" for number in range(1, 5)]
    ready, begun = ([float((job / name).read_text()) for job in jobs] for name in ("ready", "begun"))
    assert max(ready) < min(begun)
    assert max(ready) - min(ready) > 0.5
    assert {(job / "threads").read_text() for job in jobs} == {"2"}


def test_what_does_not_fit_is_not_taken(tiny: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fastest(DIVISIONS, replace(CONFIG, loss="bce_dice"), tiny, open_executor, tmp_path)
    assert found.slots == 1
    assert "2 trials at a time, 4 cores each: failed: MemoryError: two do not fit" in capsys.readouterr().err


def test_a_request_that_is_wrong(tiny: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^the request was wrong"):
        fastest(DIVISIONS, replace(CONFIG, loss="dice"), tiny, open_executor, tmp_path)


def test_nothing_can_be_measured(tiny: Manifest, tmp_path: Path) -> None:
    with pytest.raises(
        JobFailed, match="could not be measured: MemoryError: two do not fit; if memory is short, use batch_size 5"
    ):
        fastest(DIVISIONS[1:], replace(CONFIG, loss="bce_dice"), tiny, open_executor, tmp_path)


def test_it_is_remembered(tmp_path: Path) -> None:
    speed = Speed(slots=2, share=Share(cpus=4, gpus=1), images_per_second=14.0, start_seconds=9.5, model_bytes=7)
    path = tmp_path / "speeds" / "key.json"
    assert remembered(path) is None
    remember(path, speed)
    assert remembered(path) == speed
    for damaged in ("", "[]", "{}", '{"slots": 1}', '{"share": 1}'):
        path.write_text(damaged)
        assert remembered(path) is None


def test_what_makes_another_measurement(tiny: Manifest) -> None:
    def key(config: TrainConfig = CONFIG, machines: list[Machine] = EIGHT_CORES, gpus: tuple[str, ...] = ()) -> str:
        return key_of(DIVISIONS, config, tiny, machines, gpus)

    assert key() == key(replace(CONFIG, seed=1, epochs=3, patience=2))
    others = [
        key(replace(CONFIG, filters=32)),
        key(machines=[Machine(cpus=4, gpus=0)]),
        key(gpus=("GPU-1",)),
        key_of(DIVISIONS[:1], CONFIG, tiny, EIGHT_CORES, ()),
    ]
    assert len({key(), *others}) == 5


def test_divisions_for_people() -> None:
    assert describe(Division(slots=2, share=Share(cpus=1, gpus=2))) == "2 trials at a time, 2 GPUs and 1 core each"
