"""The dashboard as a real process on a real storage."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import requests

from experiments import dashboard
from seg.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(storage=url, study_name="unet", direction="maximize")
    study.enqueue_trial({"filters": 8})
    study.optimize(lambda trial: trial.suggest_int("filters", 8, 16) / 100, n_trials=1)
    return url


def test_it_lists_the_studies_and_ends_in_order(storage: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs the extra dashboard")
    command = [sys.executable, "-m", "experiments.dashboard", f"--storage={storage}", "--port=0"]
    with (
        (tmp_path / "stderr").open("w") as errors,
        subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert storage not in line  # it may hold a password
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, (tmp_path / "stderr").read_text()
            (study,) = requests.get(f"{found[0]}/api/studies", timeout=10).json()["study_summaries"]
            assert (study["study_name"], study["directions"]) == ("unet", ["maximize"])
            trials = requests.get(f"{found[0]}/api/studies/{study['study_id']}", timeout=10).json()["trials"]
            assert [trial["values"] for trial in trials] == [[0.08]]
            assert "<html" in requests.get(f"{found[0]}/dashboard", timeout=10).text
            port = found[0].rpartition(":")[2]
            with pytest.raises(UserError, match=rf"port must be free, got {port} \(Address already in use\)"):
                dashboard.main([f"--storage={storage}", f"--port={port}"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()
    assert (tmp_path / "stderr").read_text() == ""


def test_without_the_extra(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match="dashboard needs optuna-dashboard; pip install -e '.\\[dashboard\\]'"):
        dashboard.main([f"--storage={storage}"])
