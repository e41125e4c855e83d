"""Studies that are judged by Dice and latency against each other: what Optuna holds, kills, and who reads it."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.storage.study_store import open_study, read_study
from experiments.studies.comparison import as_csv, front, winner
from experiments.studies.objectives import objective_values, pareto_front
from seg.errors import UserError
from tests.history import check_history
from tests.study_setting import Setting, make_space
from tests.test_storage import COST, make_identity, url_in

BOTH = "dice,latency"


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


class TestFront:
    def test_by_hand(self) -> None:
        # Dice, cost: the second is beaten by the first, the fourth by the third; the fifth equals the third.
        points = [(0.5, 1.0), (0.5, 2.0), (0.7, 3.0), (0.6, 4.0), (0.7, 3.0), (0.9, 9.0)]
        assert pareto_front(points) == [0, 2, 5]

    def test_of_equal_costs_the_higher_dice(self) -> None:
        assert pareto_front([(0.5, 1.0), (0.6, 1.0)]) == [1]

    def test_none(self) -> None:
        assert pareto_front([]) == []

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.sampled_from([1.0, 2.0, 3.0, 4.0])), min_size=1)
    )
    def test_the_same_points_as_optunas(self, points: list[tuple[float, float]]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(directions=["maximize", "minimize"])
        study.add_trials([optuna.trial.create_trial(values=list(point)) for point in points])
        ours = {points[place] for place in pareto_front(points)}
        assert ours == {(trial.values[0], trial.values[1]) for trial in study.best_trials}


def test_values() -> None:
    assert objective_values("dice", 0.5, None) == [0.5]
    assert objective_values(BOTH, 0.5, COST) == [0.5, 3.5]


def test_an_unknown_objective() -> None:
    with pytest.raises(UserError, match="objective must be dice or dice,latency, got 'speed'"):
        make_space(objective="speed")


class TestStorage:
    def test_epochs_are_kept_though_nothing_is_pruned(self, tmp_path: Path) -> None:
        identity = make_identity(space=make_space("tpe", objective=BOTH))
        with open_study(url_in(tmp_path), identity) as store:
            store.ask(None)
            assert store.report(0, 1, 0.25)
            assert store.report(0, 1, 0.75)  # as by a trial that goes on: the first word counts
            assert store.report(0, 2, 0.5)
            store.complete(0, 0.5, COST)
        found = read_study(url_in(tmp_path), "losses")
        (row,) = found.rows
        assert found.objective == BOTH
        assert (row.state, row.val_dice, row.cost, row.curve) == ("finished", 0.5, COST, {1: 0.25, 2: 0.5})
        study = optuna.load_study(study_name="losses", storage=url_in(tmp_path))
        assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
        assert study.trials[0].values == [0.5, 3.5]

    @pytest.mark.parametrize(("first", "then"), [("dice", BOTH), (BOTH, "dice")])
    def test_the_objective_is_part_of_the_identity(self, tmp_path: Path, first: str, then: str) -> None:
        with open_study(url_in(tmp_path), make_identity(space=make_space(objective=first))):
            pass
        other = make_identity(space=make_space(objective=then))
        with (
            pytest.raises(UserError, match=f"was started with objective={first}, got {then}; .* another study name"),
            open_study(url_in(tmp_path), other),
        ):
            pass

    def test_a_driver_that_died_before_it_gave_the_study_its_identity(self, tmp_path: Path) -> None:
        with open_study(url_in(tmp_path), make_identity("first")):
            pass  # makes the tables
        optuna.create_study(storage=url_in(tmp_path), study_name="losses", direction="maximize")
        with (
            pytest.raises(UserError, match="was not made by this program"),
            open_study(url_in(tmp_path), make_identity(space=make_space(objective=BOTH))),
        ):
            pass
        with open_study(url_in(tmp_path), make_identity()) as store:
            assert store.trials() == []


def test_a_grid(setting: Setting) -> None:
    result = setting.run(4, space=make_space(objective=BOTH), slots=2)
    assert result.counts == {"finished": 4}
    # Dice 0.5 (bce) or 0.6 (dice) + filters / 1000; latency filters / 2.
    assert [trial.values for trial in setting.optuna_trials()] == [
        pytest.approx(values) for values in ([0.508, 4.0], [0.516, 8.0], [0.608, 4.0], [0.616, 8.0])
    ]
    assert [list(trial.intermediate_values) for trial in setting.optuna_trials()] == [[1, 2]] * 4
    assert [(row.number, cost.latency_ms) for row, cost in front(result.rows)] == [(2, 4.0), (3, 8.0)]
    best = winner(result.rows)
    assert best is not None
    assert best.number == 3
    assert as_csv(result.rows).count("finished") == 4
    assert setting.tracker.calls("start_study")[0]["parameters"]["objective"] == BOTH


def test_a_search_finds_and_prunes_nothing(setting: Setting) -> None:
    result = setting.run(14, space=make_space("tpe", objective=BOTH), slots=2)
    assert result.counts == {"finished": 14}  # more than TPE's ten random trials
    assert all(len(trial.values) == 2 and math.isfinite(trial.values[1]) for trial in setting.optuna_trials())


@pytest.mark.timeout(300)
def test_killed_trials_and_drivers(tmp_path: Path) -> None:
    """With MLflow's own store; then Optuna, MLflow and the workspace agree, and nothing was done twice."""
    setting = Setting(tmp_path)
    setting.plan({0: "sigkill_in_2", 1: "hang"})
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-m", "tests.study_setting", str(tmp_path), "4", "1", tracking, "", "60", BOTH]
    with (tmp_path / "driver.log").open("ab") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until_it_hangs(setting, 1)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(30)
        assert setting.optuna_states() == ["COMPLETE", "RUNNING"]
        setting.plan({})
        again = subprocess.run(command, stdout=log, stderr=log, timeout=200)
    assert again.returncode == 0, (tmp_path / "driver.log").read_text()
    assert setting.optuna_states() == ["COMPLETE"] * 4
    assert {tuple(trial.values)[1] for trial in setting.optuna_trials()} == {4.0, 8.0}
    check_history("losses", setting.storage, tracking, tmp_path, trials=4, kills=2)


def wait_until_it_hangs(setting: Setting, number: int) -> None:
    deadline = time.monotonic() + 120
    while not list(setting.folder.glob(f"studies/*/trial_{number:04d}_*/pid")):
        assert time.monotonic() < deadline, f"trial {number} did not start"
        time.sleep(0.2)
