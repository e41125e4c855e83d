"""docs/server/compose.yaml: its structure, the stack that it starts, and that no password of it is written anywhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests

from tests.compose_file import COMPOSE, FOLDER, Stack, everything_in, filled_in, running_stack
from tests.mlflow_server import free_port
from tests.postgresql_server import PostgreSQL

pytestmark = pytest.mark.timeout(1500)  # seconds: seven commands and a server, on a machine that may be busy
ROOT = Path(__file__).parent.parent
SECRETS = {
    "MLFLOW_DATABASE_PASSWORD": "canary-mlflow-database",
    "OPTUNA_DATABASE_PASSWORD": "canary-optuna-database",
    "MLFLOW_ADMIN_PASSWORD": "canary-administrator",
    "MLFLOW_SECRET_KEY": "canary-secret-key",
}
LOGIN = ("admin", SECRETS["MLFLOW_ADMIN_PASSWORD"])


def test_nothing_starts_without_its_passwords() -> None:
    for name in SECRETS:
        with pytest.raises(KeyError, match=f"{name}: set it in .env"):
            filled_in(COMPOSE, SECRETS | {name: ""})
    assert set(re.findall(r"\$\{(\w+):\?", (FOLDER / "compose.yaml").read_text(encoding="utf-8"))) == set(SECRETS)


def test_only_this_machine_reaches_it_unless_asked() -> None:
    services = filled_in(COMPOSE, SECRETS)["services"]
    assert [port for service in services.values() for port in service["ports"]] == [
        "127.0.0.1:5432:5432",
        "127.0.0.1:5000:5000",
    ]
    asked = filled_in(COMPOSE, SECRETS | {"LISTEN": "10.0.0.7"})["services"]
    assert asked["mlflow"]["ports"] == ["10.0.0.7:5000:5000"]
    words = services["mlflow"]["command"]
    assert "--app-name=basic-auth" in words
    for option in ("--allowed-hosts=", "--cors-allowed-origins="):
        (given,) = [word.removeprefix(option) for word in words if word.startswith(option)]
        assert "*" not in given


def test_the_file_is_one_that_compose_reads() -> None:
    """Names and types as the Compose specification has them: there is no container engine where this runs."""
    assert set(COMPOSE) <= {"name", "services", "volumes"}
    volumes = set(COMPOSE["volumes"])
    for service in COMPOSE["services"].values():
        assert {"image", "build"} & set(service)
        lists = ("command", "volumes", "ports", "cap_drop", "security_opt")
        assert set(service) <= {*lists, "image", "build", "environment", "healthcheck", "depends_on", "restart"}
        assert all(isinstance(word, str) for name in lists for word in service.get(name, []))
        assert all(isinstance(value, str) for value in service["environment"].values())
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert (FOLDER / source).is_file() if source.startswith("./") else source in volumes
        for name, needed in service.get("depends_on", {}).items():
            assert needed == {"condition": "service_healthy"}
            assert COMPOSE["services"][name]["healthcheck"]["test"][0] == "CMD"
    pinned = COMPOSE["services"]["mlflow"]["build"]["dockerfile_inline"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in ("mlflow", "psycopg"):
        (version,) = re.findall(rf"'{package}\[\w+\]==([\d.]+)'", pinned)
        assert re.search(rf'"{package}(\[\w+\])?=={version}"', project), package


@pytest.fixture(scope="module")
def stack(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(postgresql, SECRETS, tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def test_who_may_do_what(stack: Stack) -> None:
    asked = f"{stack.tracking}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert requests.get(asked, auth=LOGIN, timeout=60).json()["experiment"]["name"] == "Default"
    assert requests.get(asked, timeout=60).status_code == 401
    assert requests.get(asked, auth=("admin", "wrong"), timeout=60).status_code == 401
    assert requests.get(asked, auth=LOGIN, headers={"Host": "evil.example"}, timeout=60).status_code == 403
    foreign = {"Origin": "https://evil.example"}
    create = f"{stack.tracking}/api/2.0/mlflow/experiments/create"
    assert requests.post(create, json={"name": "evil"}, auth=LOGIN, headers=foreign, timeout=60).status_code == 403


def test_an_account_reads_everything_and_makes_its_own(stack: Stack) -> None:
    api = f"{stack.tracking}/api/2.0/mlflow"
    anna = ("anna", "a long password")
    created = requests.post(
        f"{api}/users/create", json={"username": anna[0], "password": anna[1]}, auth=LOGIN, timeout=60
    )
    assert created.ok, created.text

    def post(path: str, content: dict[str, str], auth: tuple[str, str]) -> requests.Response:
        return requests.post(f"{api}/{path}", json=content, auth=auth, timeout=60)

    theirs = post("experiments/create", {"name": "of the administrator"}, LOGIN).json()["experiment_id"]
    asked = f"{api}/experiments/get?experiment_id={theirs}"
    assert requests.get(asked, auth=anna, timeout=60).json()["experiment"]["name"] == "of the administrator"
    assert post("experiments/delete", {"experiment_id": theirs}, anna).status_code == 403
    own = post("experiments/create", {"name": "anna's"}, anna).json()["experiment_id"]
    assert post("experiments/delete", {"experiment_id": own}, anna).ok


def test_the_studies_role_reaches_its_own_database_alone(stack: Stack) -> None:
    place = stack.storage.removesuffix("/optuna")
    password = SECRETS["OPTUNA_DATABASE_PASSWORD"]
    with psycopg.connect(f"{place}/optuna", password=password) as connection:
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
    for database in ("mlflow", "mlflow_accounts"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(f"{place}/{database}", password=password)


# A study of fake trials through its entry point: everything else is what people run.
STUDY = """
import sys
from experiments import study
from experiments.command_line import entry
from experiments.executors.local import LocalExecutor

study.open_executor = lambda *given: LocalExecutor(1, tasks="tests.fake_tasks")
entry.run(study.main)
"""
SMALL = ["--data=demo", "--image_size=32", "--depth=2", "--loss=bce", "--filters=4,8", "--epochs=2", "--trials=2"]


def run_study(
    folder: Path, storage: str, tracking: str, password: str, study: str = "unet"
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PGPASSWORD": password,
        "MLFLOW_TRACKING_URI": tracking,
        "MLFLOW_EXPERIMENT_NAME": f"canary {study}",
    }
    return subprocess.run(
        [sys.executable, "-c", STUDY, *SMALL, f"--storage={storage}", f"--study={study}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_study_through_it_writes_no_password(stack: Stack, postgresql: PostgreSQL, tmp_path: Path) -> None:
    password = SECRETS["OPTUNA_DATABASE_PASSWORD"]
    address = stack.tracking.replace("http://", f"http://{':'.join(LOGIN)}@")
    shown = []

    # What goes wrong first: each ends in one line.
    refused = run_study(tmp_path, stack.storage, address.replace("administrator", "wrong-login"), password)
    assert "must be usable, got: " in refused.stderr
    assert "401" in refused.stderr
    absent = run_study(tmp_path, stack.storage, f"http://admin:canary-absent@127.0.0.1:{free_port()}", password)
    assert "must answer, got ConnectionError from http://127.0.0.1" in absent.stderr
    wrong = run_study(tmp_path, stack.storage, address, "canary-wrong")
    assert 'password authentication failed for user "optuna"' in wrong.stderr
    typed = run_study(tmp_path, stack.storage.replace("optuna@", "optuna:canary-typed@"), address, password)
    assert "storage must have no password on a command line" in typed.stderr
    for failed in (refused, absent, wrong, typed):
        assert failed.returncode == 2
        assert len([line for line in failed.stderr.splitlines() if line.startswith("error: ")]) == 1
        shown.append(failed)

    done = run_study(tmp_path, stack.storage, address, password)
    assert done.returncode == 0, done.stderr
    assert "best: trial 1" in done.stdout
    shown.append(done)
    database = stack.storage.replace("optuna@", f"mlflow:{SECRETS['MLFLOW_DATABASE_PASSWORD']}@").replace(
        "/optuna", "/mlflow"
    )
    direct = run_study(tmp_path, stack.storage, database, password, "direct")  # without the server before it
    assert direct.returncode == 0, direct.stderr
    shown.append(direct)

    databases = {name: everything_in(postgresql, name) for name in ("optuna", "mlflow", "mlflow_accounts")}
    written = {
        str(path): path.read_bytes() for path in [*tmp_path.rglob("*"), *stack.log.parent.rglob("*")] if path.is_file()
    }
    written |= databases | {f"output {place}": (each.stdout + each.stderr).encode() for place, each in enumerate(shown)}
    # The canaries would be found: what stands beside them is there.
    assert b"study.py" not in databases["optuna"]
    assert b"config" in databases["optuna"]
    assert b"canary unet" in databases["mlflow"]  # the name of an experiment
    assert b"canary direct" in databases["mlflow"]
    assert any("artifacts" in name and name.endswith("report.html") for name in written)
    assert any(name.endswith("log.txt") for name in written)
    assert {name for name, content in written.items() if b"canary-" in content} == set()
