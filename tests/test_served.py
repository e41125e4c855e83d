"""The comparison of a served bfloat16 model with the one that was scored runs, and prints what it says."""

import re
from pathlib import Path

import keras
import pytest

from benchmarks import served
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.models import build_model


def test_it_says_how_far_they_are_apart(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keras.utils.set_random_seed(0)
    model = build_model(TrainConfig(image_size=tiny.image_size, depth=1, filters=4, precision="mixed_bfloat16"))
    model.save(tmp_path / "model.keras")
    monkeypatch.setattr("sys.argv", ["served", str(tmp_path / "model.keras"), str(tiny.folder)])
    served.main()
    exact, scored, answers, pixels = capsys.readouterr().out.splitlines()
    distances = [float(line.split()[-1]) for line in (exact, scored, answers)]
    assert distances[0] == 0 < min(distances[1:]) < max(distances[1:]) < 0.05
    assert re.fullmatch(r"pixels decided otherwise than as scored: \d+\.\d\d%", pixels)
