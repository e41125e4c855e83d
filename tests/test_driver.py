import math
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest

from experiments.executors.local import LocalExecutor
from experiments.storage.study_store import open_study
from experiments.studies.settlement import Limits
from experiments.studies.study_result import checkpoint_folder
from seg.errors import UserError
from tests.study_setting import Setting, make_manifest, make_space
from tests.test_storage import make_identity


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


def test_importing_the_driver_loads_neither_tensorflow_nor_mlflow():
    modules = "sys, experiments.studies.driver, experiments.executors.local"
    code = f"import {modules}; print({{'tensorflow', 'mlflow'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_grid_trains_each_arm_once(setting):
    result = setting.run(4, slots=2)
    arms = [(row.config.loss, row.config.filters, row.config.seed) for row in result.rows]
    assert arms == [("bce", 8, 0), ("bce", 16, 0), ("dice", 8, 0), ("dice", 16, 0)]
    assert result.counts == {"finished": 4}
    assert result.ran == 4
    assert result.best.number == 3
    assert result.best.val_dice == pytest.approx(0.616)  # dice 0.5 + 0.1, filters 16/1000
    assert (result.folder(result.best) / "model.keras").exists()
    assert result.best.run_id == "run-losses-3"
    assert [trial.params for trial in setting.optuna_trials()][3] == {"loss": "dice", "filters": 16}


def test_a_trial_is_recorded_from_start_to_end(setting):
    setting.run(1)
    calls = [entry for entry in setting.tracker.calls() if entry["run_id"] == "run-losses-0"]
    assert [entry["call"] for entry in calls] == [
        "start_trial",
        "log_epoch",
        "log_epoch",
        "log_folder",
        "log_metrics",
        "log_tags",
        "end",
    ]
    assert calls[4]["metrics"] == {
        "best_val_dice": pytest.approx(0.508),
        "best_epoch": 2,
        "parameters": 1,
        "multiply_adds": 8000,
        "latency_ms": 4.0,
        "training_images_per_second": 10.0,
    }
    assert calls[3]["files"] == ["epochs.txt", "log.txt", "model.keras"]
    assert setting.tracker.states() == {"run-losses": "running", "run-losses-0": "finished"}


def test_more_trials_than_arms_repeat_the_arms_with_the_next_seed(setting):
    result = setting.run(5)
    assert [row.config.seed for row in result.rows] == [0, 0, 0, 0, 1]
    assert (result.rows[4].config.loss, result.rows[4].config.filters) == ("bce", 8)


def test_trials_is_a_total(setting):
    setting.run(1)
    result = setting.run(3)
    assert result.ran == 2
    assert setting.optuna_states() == ["COMPLETE"] * 3
    assert "goes on: 1 of 3 trials are finished" in setting.output.getvalue()
    assert [entry["run_id"] for entry in setting.tracker.calls("start_study")] == ["run-losses"] * 2


def test_the_same_command_again_does_nothing_and_says_so(setting):
    setting.run(1)
    result = setting.run(1)
    assert (result.ran, result.best.number) == (0, 0)
    assert len(setting.tracker.calls("start_trial")) == 1
    assert "has all its trials (1 of 1): nothing to train" in setting.output.getvalue()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("raise", "RuntimeError: the task went wrong"),
        (
            "sigkill",
            "killed by SIGKILL (out of memory?), in the last of 3 attempts; "
            "if memory is short, use batch_size 5 or fewer filters",
        ),
        ("segfault", "killed by SIGSEGV, in the last of 3 attempts"),
        ("exit", "exited with code 7 before it returned, in the last of 3 attempts"),
        ("memory_error", "MemoryError; if memory is short, use batch_size 5 or fewer filters"),
        ("nan", "val_dice was not a finite number in epoch 1"),
        ("nan_at_end", "val_dice of the best epoch is nan"),
        ("user_error", "UserError: batch_size must be at least 1, got 0."),
    ],
)
def test_a_failed_trial_is_one_failed_run_and_the_study_goes_on(setting, behaviour, reason):
    setting.plan({0: behaviour})
    result = setting.run(2)
    assert setting.optuna_states() == ["FAIL", "COMPLETE"]
    assert result.rows[0].reason == reason
    assert reason.removeprefix("UserError: ") in setting.output.getvalue()
    ends = {entry["run_id"]: entry for entry in setting.tracker.calls("end")}
    assert (ends["run-losses-0"]["state"], ends["run-losses-0"]["reason"]) == ("failed", reason)
    assert bool(ends["run-losses-0"]["traceback"]) == (not behaviour.startswith("nan"))
    assert ends["run-losses-1"]["state"] == "finished"
    assert result.best.number == 1


def test_a_failed_arm_is_tried_again_by_the_next_command(setting):
    setting.plan({1: "sigkill"})
    assert setting.run(4).counts == {"finished": 3, "failed": 1}
    result = setting.run(4)
    assert setting.optuna_states() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert result.rows[4].config == result.rows[1].config


def test_a_grid_does_not_go_on_with_what_it_does_not_ask_for(setting):
    """A trial waits whose seed the present command leaves out."""
    setting.run(4)
    with open_study(setting.storage, make_identity()) as store:
        row = store.ask(replace(make_space().base, loss="bce", filters=8, seed=7))
        store.requeue(row.number, deaths=0)
    assert setting.run(5).ran == 1
    assert setting.optuna_states() == [*["COMPLETE"] * 4, "WAITING", "COMPLETE"]


def test_the_same_user_error_everywhere_ends_the_study(setting):
    setting.plan(dict.fromkeys(range(4), "user_error"))
    with pytest.raises(UserError, match=r"^batch_size must be at least 1, got 0\.$"):
        setting.run(4)
    assert setting.optuna_states() == ["FAIL", "FAIL"]
    assert set(setting.tracker.states().values()) == {"failed"}


def test_the_user_error_of_the_only_trial_is_shown(setting):
    setting.plan({0: "user_error"})
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        setting.run(1)


def test_trials_must_be_positive(setting):
    with pytest.raises(UserError, match="trials must be at least 1, got 0"):
        setting.run(0)
    assert setting.tracker.calls() == []


def test_a_study_of_another_dataset_is_refused(setting):
    setting.run(1)
    other = make_manifest(setting.folder, key="b" * 64, name="kidneys")
    with pytest.raises(UserError, match=r"belongs to another dataset, 'demo' \(aaaaaaaaaaaa\), and not to 'kidneys'"):
        setting.run(1, manifest=other)


def test_a_study_goes_on_only_with_its_own_settings(setting):
    setting.run(1)
    with pytest.raises(UserError, match=r"was started with epochs=2, got 3; .* use another study name"):
        setting.run(1, space=make_space(epochs=3))
    with pytest.raises(UserError, match="was started with sampler=grid, got tpe"):
        setting.run(1, space=make_space("tpe"))


def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(setting):
    setting.plan({0: "sigkill_in_2"})
    result = setting.run(1)
    assert setting.optuna_states() == ["COMPLETE"]
    assert (result.rows[0].deaths, result.rows[0].reason) == (1, "")
    assert (result.folder(result.rows[0]) / "epochs.txt").read_text() == "1\n2\n"
    assert [call["epoch"] for call in setting.tracker.calls("log_epoch")] == [1, 2]
    assert "stopped after epoch 1: killed by SIGKILL (out of memory?); attempt 2 goes on" in setting.output.getvalue()
    assert "trial 1/1  bce, filters 8  val_dice 0.5080" in setting.output.getvalue()
    assert not checkpoint_folder(result.folder(result.rows[0])).exists()


def test_without_retries_the_first_death_is_the_end(setting):
    setting.plan({0: "sigkill_once"})
    setting.run(1, limits=Limits(retries=0))
    assert setting.optuna_states() == ["FAIL"]


def test_a_trial_that_hangs_is_given_up(setting):
    setting.plan({0: "hang"})
    result = setting.run(2, limits=Limits(retries=1, trial_timeout=3))
    assert setting.optuna_states() == ["FAIL", "COMPLETE"]
    assert result.rows[0].reason == "took longer than trial_timeout, 3 s, in the last of 2 attempts"


@pytest.mark.parametrize("limit", [{"retries": -1}, {"trial_timeout": -1.0}, {"trial_timeout": math.nan}])
def test_limits_are_checked(limit):
    with pytest.raises(UserError, match="must be a number of at least 0, got"):
        Limits(**limit)


def test_a_trial_whose_run_was_deleted_cannot_go_on(setting, monkeypatch):
    setting.plan({0: "sigkill_once"})

    def gone(*arguments):
        raise UserError("MLflow run 1 must not be deleted")

    monkeypatch.setattr(setting.tracker, "resume_trial", gone)
    result = setting.run(1)
    assert result.rows[0].reason == "MLflow run 1 must not be deleted"
    assert "cannot go on" in setting.output.getvalue()
    assert setting.run(1).counts == {"failed": 1, "finished": 1}


def test_a_trial_that_somebody_else_enqueued_is_refused(setting):
    setting.run(1)
    storage = optuna.storages.RDBStorage(setting.storage)
    optuna.load_study(study_name="losses", storage=storage).enqueue_trial({"loss": "dice", "filters": 8})
    storage.engine.dispose()
    result = setting.run(2)
    assert "put into the queue by somebody else" in result.rows[1].reason


def test_an_unexpected_error_of_the_driver_ends_the_study_run(setting, monkeypatch):
    def break_down(*arguments):
        raise ConnectionError("no route")

    monkeypatch.setattr(setting.tracker, "log_epoch", break_down)
    with pytest.raises(ConnectionError, match="no route"):
        setting.run(1)
    assert setting.tracker.states() == {"run-losses": "failed", "run-losses-0": "waiting"}
    assert setting.tracker.calls("end")[0]["reason"] == "the driver failed: ConnectionError: no route"
    monkeypatch.undo()
    setting.run(1)
    assert setting.optuna_states() == ["COMPLETE"]
    assert [call["epoch"] for call in setting.tracker.calls("log_epoch")] == [1, 2]


def test_a_trial_whose_files_cannot_be_published_is_settled(setting, monkeypatch):
    def break_down(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(setting.tracker, "log_folder", break_down)
    with pytest.raises(OSError, match="no space left"):
        setting.run(1)
    assert setting.tracker.states() == {"run-losses": "failed", "run-losses-0": "waiting"}
    assert setting.optuna_states() == ["WAITING"]
    monkeypatch.undo()
    result = setting.run(1)
    assert setting.optuna_states() == ["COMPLETE"]
    assert (result.folder(result.rows[0]) / "epochs.txt").read_text() == "1\n2\n"  # nothing was trained again


def test_the_picture_of_an_epoch_is_one_step_of_a_series(setting):
    setting.plan({0: "picture_in_2"})
    setting.run(1)
    pictures = [(call["file"], call["key"], call["step"]) for call in setting.tracker.calls("log_image")]
    assert pictures == [("epoch_00002.png", "validation", 2)]


def test_training_goes_on_before_the_epoch_is_recorded(setting, monkeypatch):
    order = []
    answer, log_epoch = LocalExecutor.answer, setting.tracker.log_epoch
    monkeypatch.setattr(LocalExecutor, "answer", lambda *given: order.append("answer") or answer(*given))
    monkeypatch.setattr(setting.tracker, "log_epoch", lambda *given: order.append("log") or log_epoch(*given))
    setting.run(1)
    assert order == ["answer", "log"] * 2


class TestTPE:
    def test_never_trains_the_same_twice_and_prunes(self, setting):
        result = setting.run(14, space=make_space("tpe", epochs=3), slots=2)
        trained = [tuple(sorted(row.config.as_dict().items())) for row in result.rows if row.state != "failed"]
        assert len(set(trained)) == len(trained) == 14
        assert {row.config.seed for row in result.rows} == {0}
        assert result.counts["pruned"] >= 1
        states = setting.tracker.states()
        for trial in setting.optuna_trials():
            expected = {"COMPLETE": "finished", "PRUNED": "pruned"}[trial.state.name]
            assert states[f"run-losses-{trial.number}"] == expected
            assert math.isfinite(trial.value)
            assert set(trial.params) == {"loss", "filters", "learning_rate", "depth", "augmentation"}

    def test_goes_on_with_new_proposals(self, setting):
        setting.run(2, space=make_space("tpe"))
        result = setting.run(4, space=make_space("tpe"))
        assert len({row.config.learning_rate for row in result.rows}) == 4
        assert result.counts == {"finished": 4}

    def test_a_repeated_proposal_is_not_trained(self, setting, monkeypatch):
        proposals = iter([1e-3, 1e-3, 2e-3])
        monkeypatch.setattr(
            "experiments.storage.study_store.suggest",
            lambda trial, space: type(space.base)(**space.base.as_dict() | {"learning_rate": next(proposals)}),
        )
        result = setting.run(2, space=make_space("tpe"))
        assert [row.state for row in result.rows] == ["finished", "failed", "finished"]
        assert result.rows[1].reason == "the same parameters as trial 0: not trained again"
        assert len(setting.tracker.calls("start_trial")) == 2

    def test_an_exhausted_space_ends_the_study(self, setting, monkeypatch):
        monkeypatch.setattr("experiments.studies.trial_queue._MAX_REPEATS", 3)
        monkeypatch.setattr("experiments.storage.study_store.suggest", lambda trial, space: space.base)
        assert setting.run(3, space=make_space("tpe")).counts == {"finished": 1, "failed": 3}
        assert "nothing new to try" in setting.output.getvalue()
