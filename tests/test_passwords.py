"""Passwords of URLs stay out of texts, command lines and other processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from experiments.command_line import entry
from experiments.command_line.options import parser
from experiments.command_line.passwords import find_exposed, hide, separate_login, without_login, without_secrets
from experiments.executors.local import LocalExecutor
from experiments.tracking.tracker import Tracker
from seg.errors import UserError
from tests.study_setting import make_manifest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@c/r:et@host/db", "postgresql://me:***@host/db"),  # what a URL must escape, unescaped
        ("postgresql+psycopg://:secret@host", "postgresql+psycopg://:***@host"),
        (
            "postgresql://me@host/db?sslmode=require&password=secret",
            "postgresql://me@host/db?sslmode=require&password=***",
        ),
        ("x?sslpassword=secret&a=1", "x?sslpassword=***&a=1"),
        (
            "API request to http://me:secret@host:5000/api failed; see http://host:5000/x",
            "API request to http://me:***@host:5000/api failed; see http://host:5000/x",
        ),
        ("{'url': 'https://me:secret@host', 'at': 'a@b'}", "{'url': 'https://me:***@host', 'at': 'a@b'}"),
        ("postgresql://me@host/db http://host:5000/a models:/seg-unet@champion", None),
        ("passfile=/home/me/.pgpass 12:30 me@host", None),
    ],
)
def test_hide(text: str, shown: str | None) -> None:
    assert hide(text) == (text if shown is None else shown)
    assert hide(hide(text)) == hide(text)


def test_a_token_may_stand_in_the_place_of_the_user() -> None:
    assert without_login("https://token@host/a.git") == "https://host/a.git"
    assert without_login("remote.origin.url https://me:token@host/a.git") == "remote.origin.url https://host/a.git"
    assert without_login("git@host:a.git and https://host/b@c") == "git@host:a.git and https://host/b@c"


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--trials=3", "--storage=postgresql://me:secret@host/db"], "storage"),
        (["--storage", "postgresql://me:secret@host/db", "--trials", "3"], "storage"),
        (["--storage=postgresql://me@host/db?password=secret"], "storage"),
        (["--storage=postgresql://me:my 'secret'@host/db"], "storage"),
        (["postgresql://me:secret@host/db"], "an argument"),
        (["--storage=postgresql://me@host:5432/db", "--model=models:/seg-unet@champion", "--data=a@b:c"], None),
        ([], None),
    ],
)
def test_find_exposed(arguments: list[str], option: str | None) -> None:
    assert find_exposed(arguments) == option


def test_the_login_of_a_server_moves_to_its_own_variables() -> None:
    environment = {"MLFLOW_TRACKING_URI": "https://me:s%2Fcret@host:5000/path", "MLFLOW_TRACKING_USERNAME": "other"}
    separate_login(environment)
    assert environment == {
        "MLFLOW_TRACKING_URI": "https://host:5000/path",
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "s/cret",
    }


@pytest.mark.parametrize("uri", ["", "http://host:5000", "sqlite:///mlflow.db", "postgresql://me:secret@host/db"])
def test_other_addresses_stay(uri: str) -> None:
    environment = {"MLFLOW_TRACKING_URI": uri}
    separate_login(environment)
    assert environment == {"MLFLOW_TRACKING_URI": uri}


def test_an_address_that_is_no_url() -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI must be a URL, got one with an Invalid IPv6") as caught:
        separate_login({"MLFLOW_TRACKING_URI": "http://me:secret@[host"})
    assert "secret" not in str(caught.value)


def test_launch_separates_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # so that it is restored
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert entry.read_launch().tracking_uri == "http://host:5000"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "secret"


def test_what_a_process_of_a_trial_does_not_get() -> None:
    secrets = dict.fromkeys(["MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD"])
    assert without_secrets({"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"} | dict.fromkeys(secrets, "x")) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
    }


def test_the_local_executor_passes_none_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.jobs.messages import Job

    monkeypatch.setenv("PGPASSWORD", "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@host")
    with LocalExecutor(1, tasks="tests.fake_tasks") as executor:
        executor.submit(Job(name="j", task="train", folder=str(tmp_path), arguments={"behaviour": "hang"}))
        while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
            assert executor.wait(0.1) == []
        given = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in given
    assert b"canary" not in given


@pytest.mark.parametrize(
    "given", [["--stroage=postgresql://me:secret@host/db"], ["--on_bad=postgresql://me:secret@host"]]
)
def test_a_misspelt_option_shows_none(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser("study", "", ["storage", "on_bad"]).parse_args(given)
    shown = capsys.readouterr().err
    assert "postgresql://me:***@host" in shown
    assert "secret" not in shown


PROGRAM = """
import sys
from experiments.command_line import entry
def main(arguments):
    raise {error}
sys.argv[1:] = {arguments}
entry.run(main)
"""


def run_entry(error: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(error=error, arguments=arguments)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_a_bug_shows_its_traceback_without_them() -> None:
    ended = run_entry("ConnectionError('http://me:secret@host refused')", [])
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback (most recent call last):\n")
    assert ended.stderr.endswith("ConnectionError: http://me:***@host refused\n")
    assert "secret" not in ended.stderr.partition("ConnectionError: ")[2]


def test_a_password_on_the_command_line_is_refused_before_anything_starts() -> None:
    ended = run_entry("AssertionError", ["--storage=postgresql://me:secret@host/db"])
    assert ended.returncode == entry.MISTAKE
    assert ended.stderr == (
        "error: storage must have no password on a command line, where others see it; leave it out, and set "
        "PGPASSWORD or write it into ~/.pgpass.\n"
    )


def test_what_ends_a_run_is_recorded_without_them(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", None)
    run_id = tracker.start_run("failing", {}, make_manifest(tmp_path))
    leaky = "ConnectionError: http://me:secret@host refused"
    tracker.end(run_id, "failed", leaky, f"Traceback\n{leaky}")
    assert tracker.tags(run_id)["reason"] == "ConnectionError: http://me:***@host refused"
    kept = tracker.download(run_id, "traceback.txt", tmp_path / "fetched").read_text()
    assert kept == "Traceback\nConnectionError: http://me:***@host refused"


@pytest.mark.slow
def test_mlflow_run_with_a_password_leaves_a_deleted_run(tmp_path: Path) -> None:
    """MLflow records the parameter before our code starts; what it printed is on the user's terminal alone."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    given = ["-e", "doctor", "-P", "storage=postgresql://me:canary5@host/db", "--env-manager", "local"]
    ended = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), *given],
        cwd=tmp_path,
        env=environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 0
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(["0"], run_view_type=mlflow.entities.ViewType.ALL)
    assert (run.info.lifecycle_stage, run.info.status) == ("deleted", "FAILED")
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert f"which is deleted now: erase it with mlflow gc --run-ids {run.info.run_id}, and change" in line
    assert "canary5" not in line
    gone = [sys.executable, "-m", "mlflow", "gc", "--run-ids", run.info.run_id, "--backend-store-uri", uri]
    subprocess.run(gone, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert client.search_runs(["0"], run_view_type=mlflow.entities.ViewType.ALL) == []
    assert [file for file in tmp_path.rglob("*") if file.is_file() and b"canary5" in file.read_bytes()] == []


def test_a_token_in_the_address_of_the_repository_leaves_the_runs_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Tracker(uri, None)
    client = mlflow.MlflowClient(uri)
    leaky = {"mlflow.source.git.repoURL": "https://canary@host/a.git", "mlflow.source.name": "https://me:canary@host/a"}
    run_id = client.create_run("0", tags=leaky | {"other": "kept"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(entry, "remote_urls", lambda: "remote.origin.url https://canary@host/a.git\n")
    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit):
        entry.run(lambda arguments: 0)
    tags = client.get_run(run_id).data.tags
    assert {name: tags[name] for name in (*leaky, "other")} == {
        "mlflow.source.git.repoURL": "https://host/a.git",
        "mlflow.source.name": "https://host/a",
        "other": "kept",
    }
    assert "canary" not in json.dumps(tags)


def test_a_run_that_cannot_be_deleted_is_named(tmp_path: Path) -> None:
    from experiments.tracking import launched_run

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Tracker(uri, None)
    assert "wrote it into run 0123, which could not be deleted (Run with id=0123 not found)" in launched_run.delete(
        "0123", uri
    )
