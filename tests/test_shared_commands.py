"""Two commands at once, typed as people type them, train one study on a real PostgreSQL: real trials, real MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from experiments.storage.study_store import read_study
from experiments.tracking.tracker import Tracker
from seg.data.demo import write_demo
from tests.history import check_history
from tests.postgresql_server import PostgreSQL

ROOT = Path(__file__).parent.parent
TRIALS = 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_commands_share_one_budget(postgresql: PostgreSQL, tmp_path: Path) -> None:
    write_demo(tmp_path / "export", train=4, valid=2, test=2)
    storage, tracking, workspace = postgresql.create_database(), postgresql.create_database(), tmp_path / "workspace"
    Tracker(tracking, "first")  # the tables, for which two first users would race
    url = sqlalchemy.make_url(storage)
    options = {"data": tmp_path / "export", "workspace": workspace, "trials": TRIALS}
    options |= {
        "storage": url._replace(password=None).render_as_string(),
        "image_size": 32,
        "depth": 2,
        "batch_size": 4,
    }
    options |= {"loss": "bce,dice", "filters": "2,4", "epochs": 1}
    command = [sys.executable, "-m", "experiments.study", *(f"--{name}={value}" for name, value in options.items())]
    environment = os.environ | {"PGPASSWORD": url.password, "MLFLOW_TRACKING_URI": tracking, "PYTHONPATH": str(ROOT)}
    environment["MLFLOW_EXPERIMENT_NAME"] = "shared"
    logs = [tmp_path / f"{name}.log" for name in ("one", "other")]
    commands = []
    for log in logs:
        with log.open("w") as output:
            commands.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output))
    try:
        for started, log in zip(commands, logs, strict=True):
            assert started.wait(timeout=500) == 0, log.read_text()
    finally:
        for started in commands:
            started.kill()
            started.wait()
    # The budget is exact, no configuration ran twice, and both records agree on every trial.
    check_history("unet", storage, tracking, workspace, TRIALS, kills=0)
    rows = read_study(storage, "unet").rows
    assert len(rows) == TRIALS
    assert len({row.driver for row in rows}) == 2, (
        f"one command trained everything: {[log.read_text() for log in logs]}"
    )
    # One of them ended the study; the other says which.
    assert sorted("best: trial " in log.read_text() for log in logs) == [False, True]
    assert sorted("its end is left to " in log.read_text() for log in logs) == [False, True]
