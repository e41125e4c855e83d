import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from experiments.storage.storage_connection import open_storage
from experiments.storage.study_identity import StudyIdentity
from experiments.storage.study_store import open_study, read_study
from experiments.studies.search import DESIGNS
from seg.errors import UserError
from seg.training.result import ModelCost
from tests.study_setting import make_space

COST = ModelCost(parameters=10, multiply_adds=200, latency_ms=3.5, images_per_second=40.0)


def make_identity(study: str = "losses", **changes) -> StudyIdentity:
    fields = {"dataset_key": "a" * 64, "dataset_name": "demo", "split": "official", "space": make_space()}
    return StudyIdentity(study=study, **fields | changes)


def url_in(folder) -> str:
    return f"sqlite:///{folder / 'optuna.db'}"


def refusal(url: str) -> str:
    with pytest.raises(UserError) as caught, open_study(url, make_identity()):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_study_has_its_identity_and_tables(tmp_path):
    with open_study(url_in(tmp_path), make_identity()) as store:
        assert store.trials() == []
        assert store.parent_run() is None
        store.set_parent_run("run")
    with open_study(url_in(tmp_path), make_identity()) as store:
        assert store.parent_run() == "run"


def test_settled_trials_come_back_as_rows(tmp_path):
    arms = make_space().arms()
    with open_study(url_in(tmp_path), make_identity()) as store:
        for arm in arms[:3]:
            store.ask(arm)
        store.set_run(0, "run-0")
        assert store.report(0, 1, 0.25)
        store.complete(0, 0.5, COST)
        store.report(1, 1, 0.125)
        store.prune(1)
        store.fail(2, "killed")
        store.ask(arms[3])
    with open_study(url_in(tmp_path), make_identity()) as store:
        rows = store.trials()
        assert [row.state for row in rows] == ["finished", "pruned", "failed", "running"]
        assert [row.val_dice for row in rows] == [0.5, 0.125, None, None]
        assert [row.config for row in rows] == arms
        assert (rows[0].run_id, rows[2].reason, rows[3].seconds) == ("run-0", "killed", None)
        assert rows[0].seconds >= 0
        assert [row.cost for row in rows] == [COST, None, None, None]
        store.fail(3, "abandoned")
        assert store.trials()[3].state == "failed"


def test_same_as_sees_finished_pruned_and_running_trials_only(tmp_path):
    arm = make_space().arms()[0]
    with open_study(url_in(tmp_path), make_identity()) as store:
        store.fail(store.ask(arm).number, "killed")
        first = store.ask(arm)
        assert store.same_as(first) is None
        assert store.same_as(store.ask(arm)) == 1


@pytest.mark.parametrize("study", ["", "../up", "a/b", ".hidden", "x" * 101, "name\n"])
def test_study_names_are_folder_names(study):
    with pytest.raises(UserError, match="study must be made of letters, digits"):
        make_identity(study)


def test_another_dataset(tmp_path):
    with open_study(url_in(tmp_path), make_identity()):
        pass
    with (
        pytest.raises(UserError, match=r"study 'losses' belongs to another dataset, 'demo'"),
        open_study(url_in(tmp_path), make_identity(dataset_key="b" * 64, dataset_name="kidneys")),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "grouped"}, "was started with split=official, got grouped"),
        ({"space": make_space("tpe")}, "was started with sampler=grid, got tpe"),
        ({"space": make_space(batch_size=4)}, "was started with batch_size=10, got 4"),
    ],
)
def test_other_settings(tmp_path, change, message):
    with open_study(url_in(tmp_path), make_identity()):
        pass
    with pytest.raises(UserError, match=message), open_study(url_in(tmp_path), make_identity(**change)):
        pass


@pytest.mark.parametrize("designs", [DESIGNS, DESIGNS[::-1]])
def test_another_design(tmp_path, designs):
    first, then = (replace(make_space(), design=design) for design in designs)
    with open_study(url_in(tmp_path), make_identity(space=first)):
        pass
    with (
        pytest.raises(UserError, match=f"was started with design={first.design}, got {then.design}"),
        open_study(url_in(tmp_path), make_identity(space=then)),
    ):
        pass


def test_a_study_from_before_a_field_was_there_goes_on_with_its_default(tmp_path):
    def forget(fields: dict) -> dict:
        return {name: value for name, value in fields.items() if name not in ("architecture", "dropout")}

    with open_study(url_in(tmp_path), make_identity()) as store:
        number = store.ask(make_space().arms()[0]).number
    study = optuna.load_study(study_name="losses", storage=url_in(tmp_path))
    study.set_user_attr("space", forget(study.user_attrs["space"]))
    (trial,) = study.trials
    study._storage.set_trial_user_attr(trial._trial_id, "config", forget(trial.user_attrs["config"]))

    with open_study(url_in(tmp_path), make_identity()) as store:
        assert store.trials()[number].config == make_space().arms()[0]
    with (
        pytest.raises(UserError, match="was started with dropout=0.0, got 0.5"),
        open_study(url_in(tmp_path), make_identity(space=make_space(dropout=0.5))),
    ):
        pass


def test_devices_may_change(tmp_path):
    for devices in ("auto", "cpu:2"):
        with open_study(url_in(tmp_path), make_identity(space=make_space(devices=devices))):
            pass


def test_a_strangers_study_is_left_alone(tmp_path):
    storage = optuna.storages.RDBStorage(url_in(tmp_path))
    optuna.create_study(storage=storage, study_name="losses", direction="maximize").ask()
    storage.engine.dispose()
    assert "was not made by this program; use another study name" in refusal(url_in(tmp_path))


def test_a_study_has_one_driver_and_is_free_after_it(tmp_path):
    with open_study(url_in(tmp_path), make_identity()):
        assert "another process is running 'losses'" in refusal(url_in(tmp_path))
        with open_study(url_in(tmp_path), make_identity("other")):
            pass
    with open_study(url_in(tmp_path), make_identity()):
        pass


@pytest.mark.parametrize(
    "url", ["", "optuna.db", "mysql://root:secret@host/db", "redis://:secret@host", "postgresql://u:secret@host:port/x"]
)
def test_what_is_no_storage(url):
    message = refusal(url)
    assert message == "storage must be a URL like sqlite:///optuna.db or postgresql://user@host/database."


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_storage_must_last(url):
    assert "storage must name a file" in refusal(url)


def test_a_folder_that_is_not_there(tmp_path):
    message = refusal(f"sqlite:///{tmp_path}/missing/optuna.db")
    assert "does not answer" in message
    assert "No such file or directory" in message


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "optuna.db").write_bytes(b"something else entirely, and long enough" * 100)
    assert "file is not a database" in refusal(url_in(tmp_path))


POSTGRESQL = """
import sys
from pathlib import Path
from tests.test_storage import refusal
sys.modules["psycopg"] = sys.modules["psycopg2"] = None
print(refusal("postgresql://seg:geheim@127.0.0.1:1/seg?sslpassword=leise"))
"""


def test_postgresql_without_its_driver_names_it_and_shows_no_password():
    run = subprocess.run([sys.executable, "-c", POSTGRESQL], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "storage postgresql://seg:***@127.0.0.1:1/seg needs the extra postgres; pip install -e '.[postgres]'.\n"
    )


@pytest.mark.parametrize("password", ["geheim", "p@ss/w%rd"])
def test_a_password_in_the_databases_own_message_is_hidden(monkeypatch, password):
    def refuse(lease):
        raise sqlalchemy.exc.OperationalError("", {}, Exception(f"bad password {password}\nsecond line"))

    monkeypatch.setattr("experiments.storage.leases.Lease.__enter__", refuse)
    url = sqlalchemy.URL.create("postgresql", "seg", password, "127.0.0.1", 1, "seg")
    message = refusal(url.render_as_string(hide_password=False))
    assert message == "storage postgresql://seg:***@127.0.0.1:1/seg does not answer (bad password ***)."


def test_a_study_is_read_without_holding_it(tmp_path):
    arm = make_space().arms()[0]
    with open_study(url_in(tmp_path), make_identity()) as store:
        store.set_parent_run("run")
        store.ask(arm)
        store.report(0, 1, 0.25)
        store.report(0, 2, 0.5)
        found = read_study(url_in(tmp_path), "losses")
        store.complete(0, 0.5)
    assert (found.dataset_key, found.dataset_name, found.split) == ("a" * 64, "demo", "official")
    assert (found.sampler, found.run_id, found.settings["loss"]) == ("grid", "run", ["bce", "dice"])
    assert [(row.state, row.config, row.curve) for row in found.rows] == [("running", arm, {1: 0.25, 2: 0.5})]


def test_reading_makes_no_storage(tmp_path):
    with pytest.raises(UserError, match="storage must name a file that exists"):
        read_study(url_in(tmp_path), "losses")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_study_that_is_not_there(tmp_path):
    with open_study(url_in(tmp_path), make_identity()):
        pass
    with pytest.raises(UserError, match="study must be one of losses, got 'widths'"):
        read_study(url_in(tmp_path), "widths")


def test_reading_a_strangers_study(tmp_path):
    storage = optuna.storages.RDBStorage(url_in(tmp_path))
    optuna.create_study(storage=storage, study_name="losses")
    storage.engine.dispose()
    with pytest.raises(UserError, match="study 'losses' was not made by this program; choose another"):
        read_study(url_in(tmp_path), "losses")


def test_looking_at_a_storage_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="storage must name a file that exists, got .*/none.db; run a study first"):
        open_storage(f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())
    (tmp_path / "text.db").write_text("no database, and long enough to be taken for one " * 20)
    with pytest.raises(UserError, match="does not answer"):
        open_storage(f"sqlite:///{tmp_path}/text.db")
