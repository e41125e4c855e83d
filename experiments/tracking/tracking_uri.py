"""Where MLflow's tracking store is, and whether it answers, before anything else starts.

MLflow itself tries an absent server for minutes and an absent database longer; a person who mistyped an address
should know within seconds. No message shows a password.
"""

import logging
import os
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import sqlalchemy

from experiments.command_line.passwords import hide
from seg.errors import UserError

DEFAULT = "sqlite:///mlflow.db"
_TIMEOUT = 4  # seconds


def quieten_mlflow() -> None:
    """Bounds MLflow's waiting and keeps its chatter off the terminal; what the user has set stays."""
    # Read at each request. The defaults wait four minutes for a server that is gone.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # "View run … at …" after every trial, and a bar for every file, would tear the progress display.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _OneAttempt:
    """The environment is every thread's: the first to enter changes it, the last to leave puts it back."""

    _NAME = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._inside = 0
        self._before: str | None = None

    def __enter__(self) -> None:
        with self._changing:
            if self._inside == 0:
                self._before = os.environ.get(self._NAME)
                os.environ[self._NAME] = "0"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self._inside -= 1
            if self._inside == 0 and self._before is None:
                del os.environ[self._NAME]
            elif self._inside == 0 and self._before is not None:
                os.environ[self._NAME] = self._before


_one_attempt = _OneAttempt()


def one_attempt() -> AbstractContextManager[None]:
    """MLflow's requests are not tried again meanwhile, another thread's neither.

    For what creates something, which would be created twice, and for who tries again himself.
    """
    return _one_attempt


def resolve(uri: str | None) -> str:
    """The tracking URI to use: the given one, else MLFLOW_TRACKING_URI, else mlflow.db in the working directory.

    A relative SQLite path becomes absolute, so that it still means the same file in another directory.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI, absolute; None for any other URI."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).absolute()


def displayed(uri: str) -> str:
    """The URI as it may be printed: without user name and password."""
    uri = hide(uri)
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def without_secrets(text: str, uri: str) -> str:
    """A text, such as MLflow's error, with the password of the URI and of the environment as `***`."""
    secrets = {os.environ.get("MLFLOW_TRACKING_PASSWORD"), os.environ.get("MLFLOW_TRACKING_TOKEN")}
    with suppress(ValueError):
        password = urlsplit(uri).password
        secrets |= {password, unquote(password or "")}
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return hide(text)


def probe(uri: str) -> None:
    """Returns when the store answers.

    Raises:
        UserError: if it does not within a few seconds, or if the URI names a kind of store that is not supported.
    """
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:  # it may hold a password: it is not shown
        raise UserError(f"tracking_uri must be a URL, got one with an {error}; use {DEFAULT}.") from None
    if scheme in ("http", "https"):
        _probe_server(uri)
    elif scheme == "sqlite" and not uri.removeprefix("sqlite:").lstrip("/").replace(":memory:", ""):
        raise UserError(
            f"tracking_uri must name a file, so that the runs outlast the command, got '{uri}'; use {DEFAULT}."
        )
    elif scheme.startswith(("sqlite", "postgresql", "mysql", "mssql")):
        _probe_database(uri, scheme)
    else:
        raise UserError(
            f"tracking_uri must be an MLflow server (http://…) or a database (sqlite:///…, postgresql://…), "
            f"got '{displayed(uri)}'; use {DEFAULT}."
        )


def _probe_server(uri: str) -> None:
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise _unreachable(uri, type(error).__name__, "start the server") from None
    # Before the API is asked, so that a refused login is told apart from an absent server.
    if answer.status_code in (401, 403):
        raise _unreachable(uri, f"HTTP {answer.status_code}", "set MLFLOW_TRACKING_USERNAME and _PASSWORD")
    if not answer.ok:
        raise _unreachable(uri, f"HTTP {answer.status_code}", "check that an MLflow server runs there")


def _probe_database(uri: str, scheme: str) -> None:
    path = sqlite_path(uri)
    if path is not None and not path.parent.is_dir():
        raise UserError(f"the folder of tracking_uri must exist, got {path}; create {path.parent}.")
    if path is not None and not path.exists():
        # To connect would leave an empty file there: the tracker makes a whole one.
        if not os.access(path.parent, os.W_OK):
            raise UserError(f"the folder of tracking_uri must be writable, got {path.parent}; choose another.")
        return
    limits = {"connect_timeout": _TIMEOUT} if scheme.startswith(("postgresql", "mysql")) else {}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args=limits)
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
        finally:
            engine.dispose()
    except ModuleNotFoundError as error:
        raise _unreachable(uri, f"no module {error.name}", f"pip install the database driver {error.name}") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(uri, type(error).__name__, "check address, user and password") from None


def _unreachable(uri: str, what: str, remedy: str) -> UserError:
    return UserError(
        f"the MLflow tracking store must answer, got {what} from {displayed(uri)}; "
        f"{remedy}, or unset MLFLOW_TRACKING_URI to use {DEFAULT}."
    )
