"""`slots=auto` from the command line: real models are measured, a forecast is said, and the study ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.storage.study_store import read_study
from seg.data.demo import write_demo

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MEASURED = re.compile(r"^measured: (\d+) trials? at a time, \d+ cores?(?: each)?: ([\d.]+) images per second$", re.M)


def test_a_study_measures_says_what_it_will_take_and_ends(tmp_path: Path) -> None:
    write_demo(tmp_path / "export", train=8, valid=2, test=2)
    storage, workspace = f"sqlite:///{tmp_path / 'optuna.db'}", tmp_path / "workspace"
    options = {"data": tmp_path / "export", "workspace": workspace, "storage": storage, "slots": "auto"}
    options |= {"image_size": 32, "depth": 2, "batch_size": 4, "filters": 4, "loss": "bce,dice", "epochs": 1}
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "PYTHONPATH": str(ROOT)}

    def study(trials: int) -> str:
        given = [f"--{name}={value}" for name, value in (options | {"trials": trials}).items()]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.study", *given],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("best: trial ")
        rows = read_study(storage, "unet").rows
        assert [row.state for row in rows] == ["finished"] * trials
        return done.stderr

    said = study(trials=2)
    measured = [(int(slots), float(speed)) for slots, speed in MEASURED.findall(said)]
    assert [slots for slots, _ in measured] == [1, 2][: len(os.sched_getaffinity(0))]
    assert min(speed for _, speed in measured) > 0
    (remembered,) = (workspace / "speeds").glob("*.json")
    speed = json.loads(remembered.read_text())
    # What was decided is the fastest that was measured, or fewer slots where more gain less than a twentieth.
    assert speed["slots"] == (2 if measured[-1][1] >= 1.05 * measured[0][1] and len(measured) > 1 else 1)
    assert speed["model_bytes"] > 10_000
    assert speed["checkpoint_bytes"] > speed["model_bytes"]  # the optimizer's variables too
    assert speed["start_seconds"] > 1
    division = f"{speed['slots']} trial{'s' if speed['slots'] > 1 else ''} at a time, "
    (forecast,) = re.findall("^forecast: .*$", said, re.M)
    assert re.fullmatch(
        rf"forecast: 2 trials in all, of up to 1 epochs, {division}.*: (\d+ s|\d+ min) and \d+ MB of disk", forecast
    )
    # The same study with one trial more: nothing is measured again, and what is left is forecast.
    said = study(trials=3)
    assert "measured" not in said
    assert f"forecast: 1 of 3 trials left, of up to 1 epochs, {division}" in said
    # And when it has all of them, there is nothing to say.
    assert "forecast" not in study(trials=3)
