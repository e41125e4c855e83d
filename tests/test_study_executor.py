"""From the options to slots: what is asked for, what is measured, and what is said of it."""

import argparse
from pathlib import Path

import pytest

from experiments import study
from experiments.executors import study_executor
from experiments.executors.local import LocalExecutor, local_forks
from experiments.executors.slots import Machine
from experiments.executors.study_executor import open_executor
from seg.data.manifest import Manifest
from seg.errors import UserError


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(study_executor, "here", lambda environment: Machine(cpus=8, gpus=4))


def values(tmp_path: Path, *options: str) -> argparse.Namespace:
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    return study.build_parser().parse_args([f"--workspace={tmp_path}", f"--storage={storage}", "--epochs=3", *options])


def shares(executor: LocalExecutor) -> tuple[int, list[str], str]:
    return executor.slots, executor._free_gpus, executor._threads.get("OMP_NUM_THREADS", "all")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (1, [], "all")),
        (["--slots=2"], (2, ["0,2", "1,3"], "4")),
        (["--slots=auto", "--gpus_per_trial=1"], (4, ["0", "1", "2", "3"], "2")),
        (["--slots=2", "--gpus_per_trial=0"], (2, ["", ""], "4")),
        (["--gpus_per_trial=1"], (1, ["0"], "all")),
    ],
)
def test_what_the_slots_get(tiny: Manifest, tmp_path: Path, options, expected) -> None:
    given = values(tmp_path, *options)
    with open_executor(given, study.search_space(given).arms(), 4, tiny) as executor:
        assert isinstance(executor, LocalExecutor)
        assert shares(executor) == expected


@pytest.mark.parametrize(("trials", "ahead"), [(4, True), (0, False)], ids=["trials are left", "none"])
def test_what_trials_need_is_imported_ahead(tiny: Manifest, tmp_path: Path, trials, ahead) -> None:
    given = values(tmp_path)
    with open_executor(given, study.search_space(given).arms(), trials, tiny) as executor:
        assert isinstance(executor, LocalExecutor)
        assert (executor._forks._server is not None) == ahead


def test_the_default_measures_nothing(tiny: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = values(tmp_path)
    with open_executor(given, study.search_space(given).arms(), 4, tiny):
        pass
    assert capsys.readouterr().err == (
        "forecast: 4 trials in all, of up to 3 epochs, 1 trial at a time, 4 GPUs and 8 cores; slots=auto would measure "
        "how long that takes\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_auto_measures_the_largest_model_once(
    tiny: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_executor, "local_forks", lambda: local_forks(tasks="tests.fake_speed"))
    given = values(tmp_path, "--slots=auto", "--loss=bce", "--filters=8,32,16")
    for _ in range(2):
        with open_executor(given, study.search_space(given).arms(), 6, tiny) as executor:
            assert shares(executor) == (4, ["0", "1", "2", "3"], "2")
    first, second, third, again = capsys.readouterr().err.splitlines()
    assert first == "measured: 1 trial at a time, 4 GPUs and 8 cores: 10.0 images per second"
    assert second == "measured: 4 trials at a time, 1 GPU and 2 cores each: 14.4 images per second"
    assert third == again
    assert third.startswith(
        "forecast: 6 trials in all, of up to 3 epochs, 4 trials at a time, 1 GPU and 2 cores each: "
    )
    assert third.endswith(" and 1 MB of disk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slots=0"], r"slots must be at least 1, or auto, got 0\."),
        (["--gpus_per_trial=-1"], r"gpus_per_trial must be at least 0, or auto, got -1\."),
        (["--slots=5"], r"slots must be at most the number of GPUs, 4, got 5; use 4\."),
    ],
)
def test_numbers_that_are_none(tiny: Manifest, tmp_path: Path, options, message) -> None:
    given = values(tmp_path, *options)
    with pytest.raises(UserError, match=message), open_executor(given, study.search_space(given).arms(), 4, tiny):
        pass


def test_text_that_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        values(tmp_path, "--slots=many")
    assert "argument --slots: invalid int_or_auto value: 'many'" in capsys.readouterr().err
