"""MLflow's server goes away, or its answers do, while a study runs: nothing waits, and nothing is lost or done twice.

A real server behind a proxy that fails when it is told to. Each test asserts that its fault fired.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from experiments import sync
from experiments.command_line import entry
from experiments.registry.registry import Registry
from experiments.tracking import transport
from experiments.tracking.outboxes import Outboxes
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.appearance import Appearance
from seg.errors import UserError
from tests.faulty_proxy import FaultyProxy, faulty_proxy
from tests.history import check_history
from tests.mlflow_server import MlflowServer, mlflow_server
from tests.study_setting import Setting, make_manifest, make_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NAME = "study_losses"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(server) as proxy:
        yield proxy


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A study whose trials note how long they waited for each verdict."""
    setting = Setting(tmp_path)
    setting.plan(dict.fromkeys(range(10), "timed"))
    return setting


def waits(setting: Setting) -> list[tuple[float, float]]:
    """When each epoch was reported, and the seconds until it was answered, as the trial's process measured them."""
    paths = sorted(setting.folder.glob("studies/*/trial_*/waits.txt"))
    lines = [line.split() for path in paths for line in path.read_text().splitlines()]
    return [(float(when), float(seconds)) for when, seconds in lines]


def longest_wait(setting: Setting, began: float, ended: float = math.inf) -> float:
    """The longest wait during an outage, less what the longest one took while the server answered: a busy machine's."""
    inside = [seconds for when, seconds in waits(setting) if began <= when < ended]
    outside = [seconds for when, seconds in waits(setting) if not began <= when < ended]
    return max(inside) - max(outside, default=0)


class Later(threading.Thread):
    """Does something to the proxy while the study has the main thread, once something is true."""

    def __init__(self, true: Callable[[], object], act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.true, self.act = true, act
        self.start()

    def run(self) -> None:
        while not self.true():
            time.sleep(0.02)
        self.act()


def left(setting: Setting, uri: str) -> int:
    return sum(map(len, Outboxes.of(setting.folder, uri).waiting()))


def epochs_of(uri: str, experiment: str) -> dict[str, list[tuple[int, float]]]:
    """The curve of each trial's run, by the trial's number."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    curves = {}
    for run in client.search_runs([found.experiment_id]):
        if "trial" in run.data.tags:
            history = client.get_metric_history(run.info.run_id, "val_dice")
            curves[run.data.tags["trial"]] = [(metric.step, metric.value) for metric in history]
    return curves


def times_of(uri: str, experiment: str) -> list[tuple[int, int]]:
    """Start and end of every run, in ms."""
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return [(run.info.start_time, run.info.end_time) for run in client.search_runs([found.experiment_id])]


@pytest.mark.parametrize("mode", ["down", "silent"])
def test_gone_for_a_while(setting: Setting, proxy: FaultyProxy, server: str, experiment: str, mode: str) -> None:
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
    first = setting.folder / "studies" / "losses"
    outage: list[float] = []

    def fail() -> None:
        outage.append(time.time())
        proxy.mode = mode
        while len(waits(setting)) < 6 or not proxy.failed:  # the second trial has started meanwhile
            time.sleep(0.05)
        proxy.mode = "up"
        outage.append(time.time())

    with Tracker(proxy.uri, experiment, setting.folder, NAME) as tracker:
        setting.tracker = tracker  # type: ignore[assignment]
        Later(lambda: list(first.glob("trial_0000_*/waits.txt")), fail)
        result = setting.run(2, space=make_space(epochs=4))
        tracker.end(result.run_id, "finished")
    del os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    assert proxy.failed > 0
    assert len(waits(setting)) == 8
    assert longest_wait(setting, *outage) < 1
    assert (entry.done(tracker), left(setting, proxy.uri)) == (0, 0)
    check_history("losses", setting.storage, server, setting.folder, trials=2, kills=0)
    # bce with 8 and 16 filters: 0.508 and 0.516 in the last of 4 epochs, evenly up to it
    curves = epochs_of(server, experiment)
    for trial, last in (("0", 0.508), ("1", 0.516)):
        assert curves[trial] == [(epoch, pytest.approx(last * epoch / 4)) for epoch in (1, 2, 3, 4)]


def test_gone_at_the_end(
    setting: Setting,
    proxy: FaultyProxy,
    server: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(transport, "_PATIENCE", 1.0)

    outage: list[float] = []

    def fail() -> None:
        outage.append(time.time())
        proxy.mode = "down"

    with Tracker(proxy.uri, experiment, setting.folder, NAME) as tracker:
        setting.tracker = tracker  # type: ignore[assignment]
        Later(lambda: waits(setting), fail)
        result = setting.run(2)
        tracker.end(result.run_id, "finished")
    assert entry.done(tracker) == entry.UNDELIVERED == 5
    assert proxy.failed > 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"not yet delivered to MLflow at {proxy.uri}: ")
    assert last.endswith(f"when it answers, python -m experiments.sync --workspace {setting.folder}")
    waiting = left(setting, proxy.uri)
    assert waiting > 0
    assert f": {waiting} operation(s) of " in last
    assert longest_wait(setting, *outage) < 1

    over = time.time() * 1000
    assert sync.main(["--workspace", str(setting.folder)]) == 5  # still away: nothing is lost
    assert f"{waiting} operation(s) of {NAME} not delivered: it does not answer" in capsys.readouterr().out
    proxy.mode = "up"
    assert sync.main(["--workspace", str(setting.folder)]) == 0
    assert f"delivered {waiting} operation(s) of {NAME}" in capsys.readouterr().out
    assert sync.main(["--workspace", str(setting.folder)]) == 0
    assert capsys.readouterr().out == "MLflow has been told everything\n"
    check_history("losses", setting.storage, server, setting.folder, trials=2, kills=0)
    assert all(start < end < over for start, end in times_of(server, experiment))  # not those of the delivery


def test_gone_at_the_start(
    setting: Setting,
    proxy: FaultyProxy,
    server: str,
    experiment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(transport, "_PATIENCE", 1.0)
    proxy.mode = "down"
    with pytest.raises(UserError, match=r"the MLflow tracking store must answer"):
        Tracker(proxy.uri, experiment, setting.folder, NAME)  # a mistyped address is not waited for
    proxy.mode = "up"
    with Tracker(proxy.uri, experiment, setting.folder, NAME) as tracker:
        setting.tracker = tracker  # type: ignore[assignment]
        result = setting.run(1)
        tracker.end(result.run_id, "finished")
    proxy.mode, failed = "down", proxy.failed
    with Tracker(proxy.uri, experiment, setting.folder, NAME) as tracker:
        setting.tracker = tracker  # type: ignore[assignment]
        result = setting.run(2)
        tracker.end(result.run_id, "finished")
    assert "MLflow does not answer" in capsys.readouterr().err
    assert entry.done(tracker) == 5
    assert proxy.failed > failed
    assert result.rows[1].run_id is not None
    assert result.rows[1].run_id.startswith("k")  # not MLflow's
    assert (result.folder(result.rows[1]) / "model.keras").exists()
    while Outboxes.of(setting.folder, proxy.uri).taken():  # as long as this process, its command, would live
        time.sleep(0.05)
    proxy.mode = "up"
    with Tracker(proxy.uri, experiment, setting.folder, NAME) as tracker:  # the next command delivers
        setting.tracker = tracker  # type: ignore[assignment]
        assert setting.run(2).ran == 0
        tracker.end(result.run_id, "finished")
    assert "MLflow is told what an earlier command left" in capsys.readouterr().err
    assert entry.done(tracker) == 0
    check_history("losses", setting.storage, server, setting.folder, trials=2, kills=0)


def test_a_lost_answer_makes_nothing_twice(
    setting: Setting, proxy: FaultyProxy, server: str, experiment: str, tmp_path: Path
) -> None:
    proxy.swallow = ["runs/create"]
    manifest = make_manifest(tmp_path)
    with Tracker(proxy.uri, experiment, tmp_path, NAME) as tracker:
        study = tracker.start_study("losses", {}, manifest)
        proxy.swallow.append("runs/create")
        trial = tracker.delivered(tracker.start_trial(study, "losses", 0, TrainConfig(), manifest))
        for path in ("runs/log-batch", "runs/log-inputs", "runs/set-tag", "runs/update"):
            proxy.swallow.append(path)
        tracker.log_metrics(trial, {"loss": 0.5})
        tracker.extend_note(study, "the answer")
        tracker.log_text(trial, "text", "note.txt")
        tracker.end(trial, "finished")
        tracker.end(study, "finished")
    assert proxy.swallow == ["runs/log-inputs", "runs/set-tag"]  # those were not asked for: six were
    assert proxy.failed == 4
    client = mlflow.MlflowClient(server)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [metric.value for metric in client.get_metric_history(trial, "loss")] == [0.5]
    parent = client.get_run(tracker.delivered(study))
    assert parent.data.tags["mlflow.note.content"].count("the answer") == 1

    proxy.swallow = ["logged-models", "model-versions/create"]
    (tmp_path / "model.keras").write_bytes(b"weights")
    version = Registry(proxy.uri).register(
        trial,
        tmp_path / "model.keras",
        experiment,
        scores={"dice_own_size": 0.8},
        threshold=0.5,
        dataset_key=manifest.key,
        test_key="test",
        example=b"image",
        training_images=Appearance(
            height=(1, 2), width=(1, 2), aspect=(1, 1), brightness=(0, 1), contrast=(0, 1), colour=1.0
        ),
    )
    assert (proxy.swallow, proxy.failed) == ([], 6)
    assert version.version == "1"
    assert Registry(server).versions(experiment) == ["1"]
    assert len(client.search_logged_models([found.experiment_id])) == 1


def test_a_driver_that_is_killed_leaves_its_outbox_to_the_next(
    setting: Setting, proxy: FaultyProxy, server: str
) -> None:
    command = [sys.executable, "-m", "tests.study_setting", str(setting.folder), "2", "1", proxy.uri]
    with (setting.folder / "driver.log").open("ab") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        while not waits(setting):
            assert driver.poll() is None, (setting.folder / "driver.log").read_text()
            time.sleep(0.05)
        proxy.mode = "down"
        while not (setting.folder / "studies" / "losses").glob("trial_0001_*") or len(waits(setting)) < 4:
            assert driver.poll() is None, (setting.folder / "driver.log").read_text()
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(30)
        assert proxy.failed > 0
        assert left(setting, proxy.uri) > 0
        proxy.mode = "up"
        again = subprocess.run(command, stdout=log, stderr=log, timeout=300)
    assert again.returncode == 0, (setting.folder / "driver.log").read_text()
    assert left(setting, proxy.uri) == 0
    check_history("losses", setting.storage, server, setting.folder, trials=2, kills=1)


def test_no_password_is_kept(setting: Setting, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PATIENCE", 1.0)
    uri = proxy.uri.replace("http://", "http://anna:canary-of-this-test@")
    with Tracker(uri, "canary", setting.folder, NAME) as tracker:
        study = tracker.start_study("losses", {"trials": 1}, make_manifest(setting.folder))
        proxy.mode = "down"
        tracker.log_text(study, "text", "note.txt")
        tracker.end(study, "failed", "a reason", "a traceback")
    assert tracker.undelivered()
    assert proxy.failed > 0
    kept = [path for path in setting.folder.rglob("*") if path.is_file()]
    assert any(path.name == "operations.jsonl" for path in kept)
    assert all(b"canary-of-this-test" not in path.read_bytes() for path in kept)
    assert "canary-of-this-test" not in tracker.undelivered()
    proxy.mode = "up"
    assert sync.main(["--workspace", str(setting.folder)]) == 5  # it does not know the password


@pytest.mark.timeout(900)
def test_a_server_that_is_killed_for_a_minute(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = MlflowServer(tmp_path_factory.mktemp("killed"))
    server.start()
    outage: list[float] = []

    def fail() -> None:
        outage.append(time.time())
        server.kill()
        time.sleep(60)
        outage.append(time.time())
        server.start()

    try:
        with Tracker(server.uri, "killed", setting.folder, NAME) as tracker:
            setting.tracker = tracker  # type: ignore[assignment]
            fault = Later(lambda: waits(setting), fail)
            result = setting.run(2, space=make_space(epochs=120))  # 0.3 s each
            tracker.end(result.run_id, "finished")
            fault.join(300)
        began, ended = outage
        assert ended - began >= 60
        assert len(waits(setting)) == 240
        assert longest_wait(setting, began, ended) < 10  # of a minute; a busy machine took 1.5 s for an epoch of 0.3
        assert entry.done(tracker) == 0
        check_history("losses", setting.storage, server.uri, setting.folder, trials=2, kills=0)
    finally:
        server.stop()
