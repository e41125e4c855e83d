"""A real PostgreSQL on this machine for a test: a free loopback port, a temporary folder, a user with a password."""

import contextlib
import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER, PASSWORD = "seg", "ge/h%eim"  # characters that a URL must escape
_ESCAPED = "ge%2Fh%25eim"
_ADMINISTRATOR = "postgres"


class PostgreSQL:
    """A server that can be stopped and started again on the same port and data.

    Args:
        binaries: folder of `initdb` and `postgres`.
        folder: for the data, empty; belongs to the account that runs the server.
        account: the operating system's account that runs the server; None: the one of this process.
        durable: whether commits reach the disk, as in production; False is faster.
    """

    def __init__(self, binaries: Path, folder: Path, account: str | None, durable: bool) -> None:
        self._binaries = binaries
        self._folder = folder
        self._account: dict[str, Any] = {}
        if account is not None:
            self._account = {"user": account, "group": _group(account), "extra_groups": []}
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            self.port = reserved.getsockname()[1]
        self._initialise()

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def _initialise(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        given = ["--auth=scram-sha-256", f"--pwfile={password}", f"--username={_ADMINISTRATOR}"]
        given += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [self._binaries / "initdb", "-D", self._folder / "data", *given],
            capture_output=True,
            text=True,
            cwd=self._folder,
            **self._account,
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def start(self) -> None:
        """Starts the server; returns when it takes connections."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        settings["fsync"] = "on" if self._durable else "off"
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._account,
            )
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Stops the server, ending its connections; its data stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None

    def execute(self, statement: str, database: str = _ADMINISTRATOR) -> list[Any]:
        """Runs one statement as the administrator; returns its rows, if it has any."""
        place = f"host=127.0.0.1 port={self.port} user={_ADMINISTRATOR} password={PASSWORD} dbname={database}"
        with psycopg.connect(place, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self) -> str:
        """The URL of a new, empty database for the user with the password."""
        self._databases += 1
        name = f"study_{self._databases}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER}")
        return f"postgresql://{USER}:{_ESCAPED}@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgresql_server(durable: bool = False) -> Iterator[PostgreSQL]:
    """A server that runs while the block does; without one, skips the test unless REQUIRE_POSTGRESQL is set."""
    binaries = find_binaries()
    if binaries is None:
        assert not os.environ.get("REQUIRE_POSTGRESQL"), "REQUIRE_POSTGRESQL is set, and no PostgreSQL is installed"
        pytest.skip("needs PostgreSQL's server (Debian's package postgresql)")
    # Not in pytest's folder, which only its owner may enter; PostgreSQL refuses to run as root.
    account = _other_account() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="seg_postgresql_"))
    try:
        shutil.chown(folder, account or getpass.getuser())
        server = PostgreSQL(binaries, folder, account, durable)
        try:
            server.start()
            server.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def find_binaries() -> Path | None:
    """The folder of PostgreSQL's server, the newest where Debian has several; None if there is none."""
    places = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        named = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout
        places.append(Path(named.strip()))
    debian = Path("/usr/lib/postgresql")
    places += sorted(debian.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((place for place in places if {"initdb", "postgres"} <= {file.name for file in place.glob("*")}), None)


def _other_account() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def _group(account: str) -> int:
    return pwd.getpwnam(account).pw_gid
