"""docs/server/compose.yaml without containers: its commands, its environment and its files, on this machine."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.mlflow_server import free_port, running_server
from tests.postgresql_server import PASSWORD, PostgreSQL

FOLDER = Path(__file__).parent.parent / "docs" / "server"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<rest>[^}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What clients of the running stack are told.

    Attributes:
        tracking: address of MLflow's server, without a login.
        storage: URL of Optuna's storage, without a password.
        log: what MLflow's server wrote.
    """

    tracking: str
    storage: str
    log: Path


def filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    """A part of the file with `${NAME:-default}` and `${NAME:?message}` replaced, as Compose does."""
    if isinstance(value, dict):
        return {name: filled_in(item, environment) for name, item in value.items()}
    if isinstance(value, list):
        return [filled_in(item, environment) for item in value]
    return _VARIABLE.sub(lambda found: _lookup(found, environment), value) if isinstance(value, str) else value


def _lookup(found: re.Match[str], environment: Mapping[str, str]) -> str:
    given = environment.get(found["name"], "")
    if not given and found["kind"] == "?":
        raise KeyError(f"{found['name']}: {found['rest']}")
    return given or found["rest"] or ""


@contextmanager
def running_stack(postgresql: PostgreSQL, secrets: Mapping[str, str], folder: Path) -> Iterator[Stack]:
    """PostgreSQL and MLflow's server as the file describes them; what exists in a container alone is replaced.

    Args:
        postgresql: a running server in the place of the service `database`.
        secrets: what `.env` holds beside the file.
        folder: empty, for what MLflow's server leaves.
    """
    port = free_port()
    services = filled_in(COMPOSE["services"], dict(secrets) | {"ALLOWED_HOSTS": f"127.0.0.1:{port}", "WORKERS": "1"})
    _prepare_databases(services["database"], postgresql)
    here = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "=/artifacts": f"={folder / 'artifacts'}",
        "@database/": f"@127.0.0.1:{postgresql.port}/",
        "/etc/mlflow/": f"{folder}/",
    }
    accounts = FOLDER / "basic_auth.ini"
    (folder / accounts.name).write_text(_replaced(accounts.read_text(encoding="utf-8"), here))
    program, *words = services["mlflow"]["command"]
    assert program == "mlflow"
    command = ["mlflow", *(_replaced(word, here) for word in words)]
    environment = {name: _replaced(value, here) for name, value in services["mlflow"]["environment"].items()}
    with running_server(command, environment, folder, port) as address:
        storage = f"postgresql://optuna@127.0.0.1:{postgresql.port}/optuna"
        yield Stack(tracking=address, storage=storage, log=folder / "log")


def _prepare_databases(service: dict[str, Any], postgresql: PostgreSQL) -> None:
    """What the image does at its first start: the superuser with a database of its name, and the mounted script."""
    given = service["environment"]
    user, password = given["POSTGRES_USER"], given["POSTGRES_PASSWORD"]
    postgresql.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
    postgresql.execute(f"CREATE DATABASE {user} OWNER {user}")
    login = {"PGHOST": "127.0.0.1", "PGPORT": str(postgresql.port), "PGUSER": user, "PGPASSWORD": password}
    psql = shutil.which("psql")
    assert psql is not None
    subprocess.run(
        [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--dbname={user}", f"--file={FOLDER / 'databases.sql'}"],
        env=login | given,
        check=True,
        capture_output=True,
    )


def _replaced(text: str, here: Mapping[str, str]) -> str:
    for there, replacement in here.items():
        text = text.replace(there, replacement)
    return text


def everything_in(postgresql: PostgreSQL, database: str) -> bytes:
    """Every row of every table of a database, as text."""
    place = f"host=127.0.0.1 port={postgresql.port} user=postgres password={PASSWORD} dbname={database}"
    found = b""
    with psycopg.connect(place) as connection:
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        for (table,) in connection.execute(tables).fetchall():
            with connection.cursor().copy(f'COPY "{table}" TO STDOUT'.encode()) as rows:
                found += b"".join(bytes(row) for row in rows)
    return found
