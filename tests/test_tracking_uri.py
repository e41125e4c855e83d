import logging
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from experiments.tracking import tracking_uri
from experiments.tracking.tracking_uri import displayed, probe, resolve, sqlite_path
from seg.errors import UserError


@pytest.fixture
def server():
    """An HTTP server that answers every request with the status it is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        http.status = 200
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def address(http):
    return f"http://anna:secret@127.0.0.1:{http.server_port}"


def test_the_default_is_a_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve(None) == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_environment_stands_behind_the_argument(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment")
    assert resolve(None) == "http://from-environment"
    assert resolve("http://given") == "http://given"


def test_sqlite_path():
    assert sqlite_path("sqlite:////data/mlflow.db") == Path("/data/mlflow.db")
    assert sqlite_path("postgresql://host/mlflow") is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://anna:secret@host:5000/path", "http://host:5000/path"),
        ("postgresql://anna:se@cret@host/mlflow", "postgresql://host/mlflow"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_displayed_shows_neither_user_nor_password(uri, shown):
    assert displayed(uri) == shown


def test_a_healthy_server_and_a_new_database_pass(server, tmp_path):
    probe(address(server))
    probe(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "MLFLOW_TRACKING_USERNAME"), (404, "an MLflow server runs there")]
)
def test_a_server_that_refuses(server, status, remedy):
    server.status = status
    with pytest.raises(UserError, match=f"got HTTP {status} from http://127.0.0.1:.*{remedy}") as caught:
        probe(address(server))
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        uri = f"http://anna:secret@127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(UserError, match=r"got ConnectionError from http://127.*start the server") as caught:
            probe(uri)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_accepts_and_never_answers(monkeypatch):
    monkeypatch.setattr(tracking_uri, "_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="got ReadTimeout"):
        probe(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_database_in_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"the folder of tracking_uri must exist, got .*; create "):
        probe(f"sqlite:///{tmp_path}/missing/mlflow.db")
    assert not (tmp_path / "missing").exists()


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(UserError, match="got OperationalError from sqlite"):
        probe(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_database_without_its_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(UserError, match="pip install the database driver psycopg2") as caught:
        probe("postgresql+psycopg2://anna:secret@host/mlflow")
    assert "secret" not in str(caught.value)


def test_an_address_that_is_no_url():
    with pytest.raises(UserError, match=r"tracking_uri must be a URL, got one with an Invalid IPv6 URL") as caught:
        probe("http://anna:secret@[host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///data/mlruns", "ftp://anna:secret@host"])
def test_a_store_that_is_not_supported(uri):
    with pytest.raises(UserError, match=r"must be an MLflow server .* use sqlite:///mlflow.db") as caught:
        probe(uri)
    assert "secret" not in str(caught.value)


def test_quieten_leaves_what_the_user_has_set(monkeypatch):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")
    tracking_uri.quieten_mlflow()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
    assert logging.getLogger("alembic").level == logging.WARNING
    # setdefault put them there past monkeypatch
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.delenv(name)


def test_one_attempt_is_everybodys_until_the_last_one_left(monkeypatch):
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    for before in ("7", None):
        monkeypatch.setenv(name, "7") if before else monkeypatch.delenv(name)
        with tracking_uri.one_attempt():
            with tracking_uri.one_attempt():
                assert os.environ[name] == "0"
            assert os.environ[name] == "0"
        assert os.environ.get(name) == before


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory(uri):
    with pytest.raises(UserError, match="tracking_uri must name a file"):
        probe(uri)


def test_probing_a_new_database_leaves_no_empty_file(tmp_path):
    tracking_uri.probe(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *arguments: False)
    with pytest.raises(UserError, match="the folder of tracking_uri must be writable"):
        tracking_uri.probe(f"sqlite:///{tmp_path / 'mlflow.db'}")
