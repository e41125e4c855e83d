"""Both ways to MLflow keep the same promises, on a real store; and what only the one through an outbox has to say."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from experiments.storage import fence
from experiments.tracking import transport
from experiments.tracking.delivery import NotDelivered
from experiments.tracking.operations import Operation, new_key
from experiments.tracking.outboxes import Outboxes
from experiments.tracking.recorder import Recorder
from experiments.tracking.transport import Direct, ThroughOutbox, Transport
from seg.errors import UserError

ABSENT = "0" * 32


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    assert Recorder(uri).find_experiment("ways") is None
    return uri


@pytest.fixture(params=["direct", "outbox"])
def way(request: pytest.FixtureRequest, uri: str, tmp_path: Path) -> Iterator[Transport]:
    way: Transport = (
        Direct(Recorder(uri))
        if request.param == "direct"
        else ThroughOutbox(Recorder(uri), uri, tmp_path, "study_ways", online=True)
    )
    yield way
    way.finish()


@pytest.fixture
def outbox_way(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThroughOutbox]:
    monkeypatch.setattr(transport, "_PATIENCE", 0.3)
    way = ThroughOutbox(Recorder(uri), uri, tmp_path, "study_ways", online=True)
    yield way
    way.finish()


def creation(key: str) -> Operation:
    what = {"name": "a run", "tags": {"who": "ada"}, "start": 1000, "params": {"loss": "bce"}, "experiment": "ways"}
    return Operation(run=key, do="create", what=what)


class TestTransport:
    def test_a_run_is_what_it_was_told(self, way: Transport, uri: str) -> None:
        key = new_key()
        run = way.create(creation(key), training=False)
        way.tell(
            Operation(run=run, do="batch", what={"metrics": [["loss", 0.5, 1500, 1]], "tags": {"a": "b"}}),
            Operation(run=run, do="status", what={"status": "FINISHED", "end": 2000}),
        )
        found = mlflow.MlflowClient(uri).get_run(way.delivered(run))
        assert (found.info.run_name, found.info.status) == ("a run", "FINISHED")
        assert (found.info.start_time, found.info.end_time) == (1000, 2000)
        assert (found.data.params, found.data.metrics) == ({"loss": "bce"}, {"loss": 0.5})
        assert found.data.tags.items() >= {"who": "ada", "a": "b", "run_key": key}.items()
        assert way.undelivered() == ""

    def test_a_run_is_created_once(self, way: Transport, uri: str) -> None:
        key = new_key()
        runs = {way.delivered(way.create(creation(key), training=False)) for _ in range(2)}
        assert len(runs) == 1
        again = Recorder(uri)  # of another process, which does not know whether it was done
        again.apply(Operation(**{**vars(creation(key)), "again": True}))
        assert {again.ids[key]} == runs

    def test_a_question_is_answered_with_what_was_told(self, way: Transport, uri: str) -> None:
        run = way.create(creation(new_key()), training=False)
        way.tell(Operation(run=run, do="batch", what={"tags": {"a": "b"}}))
        client = mlflow.MlflowClient(uri)
        known = way.delivered(run)
        assert way.ask(run, lambda: client.get_run(known).data.tags["a"], "?", training=False) == "b"

    def test_a_question_may_end_in_a_mistake_of_the_user(self, way: Transport, uri: str) -> None:
        with pytest.raises(UserError, match=f"MLflow run '{ABSENT}' must be in sqlite"):
            way.ask(ABSENT, lambda: Recorder(uri).existing(ABSENT), None, training=True)


def test_a_key_that_no_run_has(uri: str) -> None:
    with pytest.raises(UserError, match="a run with the key k0+ must be in sqlite:.*, got none; run sync"):
        Recorder(uri).run_id("k" + "0" * 31)


def test_files_that_are_gone_are_not_taken_for_none(uri: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone must be there to be uploaded, and is gone"):
        Recorder(uri).apply(Operation(run=ABSENT, do="files", what={"path": ""}, files=tmp_path / "gone"))


def test_what_mlflow_refuses_is_named_and_kept(outbox_way: ThroughOutbox, uri: str, tmp_path: Path) -> None:
    outbox_way.tell(Operation(run=ABSENT, do="batch", what={"tags": {"a": "b"}}))
    with pytest.raises(NotDelivered, match=r"1 operation\(s\) of 1 run\(s\), 00000000 \(.*not found.*the same command"):
        outbox_way.delivered(ABSENT)
    outbox_way.finish()
    (left,) = Outboxes.of(tmp_path, uri).waiting()
    assert len(left) == 1


def test_epochs_that_were_told_are_known_without_mlflow(outbox_way: ThroughOutbox) -> None:
    run = outbox_way.create(creation(new_key()), training=False)
    outbox_way.tell(Operation(run=run, do="batch", what={"metrics": [["val_dice", 0.5, 1500, 7]], "epoch": 7}))
    assert outbox_way.last_epoch(outbox_way.delivered(run)) == 7


def test_what_another_study_left_is_delivered_at_the_start(uri: str, tmp_path: Path) -> None:
    key = new_key()
    other = Outboxes.of(tmp_path, uri).open("study_other")
    other.append([creation(key)])
    other.close()
    ThroughOutbox(Recorder(uri), uri, tmp_path, "study_ways", online=True).finish()
    assert list(Outboxes.of(tmp_path, uri).waiting()) == []
    assert Recorder(uri).run_id(key)


def test_what_a_driver_left_that_died_meanwhile_comes_first(
    outbox_way: ThroughOutbox, uri: str, tmp_path: Path
) -> None:
    key = new_key()
    outboxes = Outboxes.of(tmp_path, uri)
    dead, other = outboxes.open("study_ways"), outboxes.open("study_other")
    dead.append([creation(key), Operation(run=key, do="status", what={"status": "RUNNING"})])
    other.append([Operation(run=ABSENT, do="batch", what={"tags": {"a": "b"}})])
    dead.close()
    other.close()
    outbox_way.take_over()
    outbox_way.tell(Operation(run=key, do="status", what={"status": "FINISHED", "end": 2000}))
    run = mlflow.MlflowClient(uri).get_run(outbox_way.delivered(key))
    assert run.info.status == "FINISHED"
    assert [left.folder.name for left in outboxes.waiting()] == ["study_other"]  # another study's business


def test_a_process_that_was_taken_for_dead_keeps_nothing(outbox_way: ThroughOutbox, tmp_path: Path) -> None:
    class Ended(Exception):
        """In place of the end of the process."""

    class Buried:
        def check(self) -> None:
            raise Ended

    lease = Buried()
    fence.put_up(lease)
    try:
        with pytest.raises(Ended):
            outbox_way.tell(Operation(run=ABSENT, do="batch", what={"tags": {"a": "b"}}))
    finally:
        fence.take_down(lease)
    assert outbox_way.undelivered() == ""


def test_damaged_lines_are_told_of(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox = Outboxes.of(tmp_path, uri).open("study_ways")
    outbox.append([creation(new_key())])
    outbox.close()
    with (outbox.folder / "operations.jsonl").open("ab") as journal:
        journal.write(b"half a li")
    ThroughOutbox(Recorder(uri), uri, tmp_path, "study_ways", online=True).finish()
    assert "1 line(s) of " in (errors := capsys.readouterr().err)
    assert "operations.jsonl were damaged and are lost; the rest is delivered" in errors
    assert "MLflow is told what an earlier command left: 1 operation(s)" in errors


def test_a_workspace_that_cannot_be_written(uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"workspace must be a folder that can be written, got .*file"):
        ThroughOutbox(Recorder(uri), uri, tmp_path / "file", "study_ways", online=True)
