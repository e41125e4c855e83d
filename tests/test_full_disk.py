"""A full disk is one clear line, nothing half-written is trusted, and the same call goes on when there is room.

On a small file system of its own where the tests may mount one, and by a limit on the size of files everywhere.
"""

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import keras
import mlflow
import numpy as np
import pytest
import sqlalchemy

from experiments.command_line import entry
from experiments.command_line.full_disk import no_room
from experiments.predict import predict_folder
from experiments.prediction.batch_prediction import JOURNAL, PredictionSettings
from experiments.storage.study_store import ABANDONED
from experiments.studies.study_result import StudyResult
from experiments.tracking.tracker import Tracker
from seg.data.convert import convert
from seg.errors import UserError
from seg.inference import Predictor
from tests.small_disk import SmallDisk, can_mount, small_disk
from tests.small_export import write_export
from tests.study_setting import Setting

FULL = "No space left on device|File too large"


@pytest.fixture(params=["file system", "limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """The limit alone where nothing can be mounted, and then twice: no check is left out."""
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", 24 * 2**20, mount=request.param == "file system") as disk:
        yield disk


def test_the_disk_is_really_full(disk: SmallDisk) -> None:
    (disk.folder / "before").write_bytes(bytes(5000))
    with disk.full(), pytest.raises(OSError, match=FULL):
        (disk.folder / "more").write_bytes(bytes(6000))
    assert (disk.folder / "more").write_bytes(bytes(6000)) == 6000
    assert disk.mounted or not can_mount() or disk.folder.stat().st_dev == disk.folder.parent.stat().st_dev


def test_records_while_converting(disk: SmallDisk, tmp_path: Path) -> None:
    data = write_export(tmp_path / "export")
    options: dict[str, Any] = {"image_size": 256, "jobs": 1, "progress": False}
    with disk.full(100_000), pytest.raises(UserError, match=f"must be writable and have room, got: .*({FULL})"):
        convert(data, disk.folder, **options)
    assert list(disk.folder.glob("datasets/*")) == []
    assert [path for path in disk.folder.glob("building/*") if path.is_dir()] == []
    found = convert(data, disk.folder, **options)
    assert np.array_equal(found.records("train"), convert(data, tmp_path / "other", **options).records("train"))


def test_records_that_are_written_again_without_an_image(disk: SmallDisk, tmp_path: Path) -> None:
    """Through a memory map, a full disk would kill the process with SIGBUS."""
    from seg.data import build

    records = np.arange(3 * 256 * 256 * 4, dtype=np.uint8).reshape(3, 256, 256, 4)
    np.save(disk.folder / "train.npy", records)
    with disk.full(100_000), pytest.raises(OSError, match=FULL):
        build._keep_rows(disk.folder / "train.npy", [0, 2])
    assert np.array_equal(np.load(disk.folder / "train.npy"), records)
    build._keep_rows(disk.folder / "train.npy", [0, 2])
    assert np.array_equal(np.load(disk.folder / "train.npy"), records[[0, 2]])


def what_stops(setting: Setting, trials: int) -> Exception:
    try:
        setting.run(trials)
    except Exception as error:  # SQLAlchemy's, Optuna's or MLflow's, as it comes
        return error
    pytest.fail("the disk was not full")


class FillingTracker:
    """Passes everything on to a tracker; the disk is full from the first epoch of trial 1 on."""

    def __init__(self, tracker: Any, disk: SmallDisk) -> None:
        self._tracker = tracker
        self._disk = disk
        self._epochs = 0

    def log_epoch(self, run_id: str, report: Any) -> None:
        self._epochs += 1
        if self._epochs == 3:
            self._disk.fill()
        self._tracker.log_epoch(run_id, report)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)


def check_finished(result: StudyResult) -> None:
    """All that was asked for is there; what stopped before it was known what it trains counts as nothing.

    Where the first command had finished as many before the disk was full, what it left goes on waiting.
    """
    assert result.counts["finished"] >= 4
    assert {row.state for row in result.rows} <= {"finished", "failed", "waiting"}
    assert {row.reason for row in result.rows if row.state == "failed"} <= {ABANDONED}


def test_optunas_database_during_a_study(disk: SmallDisk, tmp_path: Path) -> None:
    setting = Setting(tmp_path / "setting")
    setting.folder.mkdir()
    setting.storage = f"sqlite:///{disk.folder / 'optuna.db'}"
    recording = setting.tracker
    setting.tracker = FillingTracker(recording, disk)
    failure = what_stops(setting, 40)
    assert no_room(failure) in ("database or disk is full", "disk I/O error")
    disk.make_room()
    setting.tracker = recording
    result = setting.run(4)
    check_finished(result)
    with sqlite3.connect(disk.folder / "optuna.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def test_mlflows_database_during_a_study(disk: SmallDisk, tmp_path: Path) -> None:
    setting = Setting(tmp_path / "setting")
    setting.folder.mkdir()
    tracker = Tracker(f"sqlite:///{disk.folder / 'mlflow.db'}", "full")
    setting.tracker = FillingTracker(tracker, disk)
    failure = what_stops(setting, 40)
    assert no_room(failure) is not None
    disk.make_room()
    setting.tracker = tracker
    result = setting.run(4)
    tracker.end(result.run_id, "finished")
    check_finished(result)
    client = mlflow.MlflowClient(tracker.uri)
    runs = client.search_runs([client.get_run(result.run_id).info.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    finished = [row for row in result.rows if row.state == "finished"]
    assert len(runs) == 1 + len(finished)  # nothing twice
    for row in finished:
        assert client.get_run(row.run_id).data.metrics["best_val_dice"] == row.val_dice


def test_the_folder_of_predictions(disk: SmallDisk, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(4):  # noise: it does not compress
        cv2.imwrite(str(tmp_path / f"{number}.png"), random.integers(0, 256, (64, 64, 3), np.uint8))
    images = [tmp_path / f"{number}.png" for number in range(4)]
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 1)])
    predictor = Predictor(model, batch_size=1)
    settings = PredictionSettings(model="a hash", threshold=0.5, tta="none", segmentation="rle")
    output = disk.folder / "output"
    with disk.full(40_000 if disk.mounted else 10_000), pytest.raises((UserError, OSError), match=FULL):
        predict_folder(predictor, images, output, settings)
    for picture in output.glob("*/[!.]*.png"):
        assert cv2.imread(str(picture)) is not None
    assert not list(output.glob("*.json"))
    assert not list(output.glob("*.csv"))
    assert predict_folder(predictor, images, output, settings) == 0
    assert predict_folder(predictor, images, tmp_path / "other", settings) == 0
    for path in (path for path in (tmp_path / "other").rglob("*") if path.is_file() and path.name != JOURNAL):
        assert (output / path.relative_to(tmp_path / "other")).read_bytes() == path.read_bytes()


def chained(first: Exception, second: Exception) -> Exception:
    second.__context__ = first
    return second


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), "No space left on device: a.bin"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (
            sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")),
            "database or disk is full",
        ),
        (
            chained(OSError(errno.ENOSPC, "No space left on device"), ValueError("while settling")),
            "No space left on device",
        ),
        (OSError(errno.EACCES, "Permission denied"), None),
        (ValueError("no such image"), None),
    ],
)
def test_what_is_a_full_disk(error: Exception, said: str | None) -> None:
    assert no_room(error) == said


def test_an_entry_point_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "masks/1.png")

    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        entry.run(main)
    assert ended.value.code == entry.FAILED
    assert capsys.readouterr().err == (
        "error: the disk must have room, got: No space left on device: masks/1.png; make room and run the same command "
        "again.\n"
    )
