import argparse
from pathlib import Path

import pytest

from experiments.command_line import datasets
from seg.config import TrainConfig
from seg.errors import UserError
from tests.tiny import write_tiny


def values(workspace: Path) -> argparse.Namespace:
    return argparse.Namespace(
        data="demo",
        workspace=str(workspace),
        categories="all",
        on_bad="fail",
        crowds="ignore",
        overlaps="union",
        classes="binary",
        exif="ignore",
        split="official",
        group_pattern="",
        group_column="",
        split_seed=0,
        additional="",
    )


def test_a_workspace_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/workspace must be writable and have room, got: .*; choose another\."):
        datasets.prepare(values(tmp_path / "file" / "workspace"), 32)


def test_the_demo_of_a_faster_process_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "first").touch()

    monkeypatch.setattr(datasets, "write_demo", write)
    assert datasets.export_folder(values(tmp_path)) == tmp_path / "demo"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_batch_that_the_training_split_does_not_fill(tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path / "tiny", train=5)
    datasets.check_batch(manifest, TrainConfig(batch_size=5))
    with pytest.raises(UserError, match="number of training images, 5, got 6; use batch_size 5"):
        datasets.check_batch(manifest, TrainConfig(batch_size=6))
