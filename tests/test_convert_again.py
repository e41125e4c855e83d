"""A conversion that meets others: an earlier one, one that runs at the same time, one that was killed."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import seg.data.convert as convert_module
from seg.data import files
from seg.data.convert import BadDataError
from seg.data.manifest import MANIFEST, Manifest
from seg.data.workers import map_in_processes
from tests.small_export import content, run, write_export, write_image
from tests.test_convert import DeadlyWriter


@pytest.fixture
def data(tmp_path):
    return write_export(tmp_path / "export")


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "workspace"


def test_second_call_is_up_to_date(data, workspace):
    first, _ = run(data, workspace)
    written = (first.folder / MANIFEST).stat().st_mtime_ns
    second, line = run(data, workspace)
    assert line == f"up to date: {first.folder}"
    assert second == first
    assert (first.folder / MANIFEST).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 8},
        {"exif": "rotate"},
        {"categories": "lesion"},
        {"crowds": "foreground"},
        {"overlaps": "refuse"},
    ],
)
def test_another_setting_is_another_dataset(data, workspace, settings):
    assert run(data, workspace)[0].key != run(data, workspace, **settings)[0].key


def test_one_changed_pixel_is_another_dataset(data, workspace):
    first, _ = run(data, workspace)
    path = data / "test" / "image0.png"
    size = path.stat().st_size
    write_image(path, value=7)
    assert path.stat().st_size == size
    second, line = run(data, workspace)
    assert line.startswith("converted")
    assert second.key != first.key
    assert second.splits["test"].key != first.splits["test"].key
    assert second.splits["train"].key == first.splits["train"].key


def test_a_changed_annotation_is_another_dataset(data, workspace):
    first, _ = run(data, workspace)
    path = data / "train" / "_annotations.coco.json"
    path.write_text(path.read_text().replace("6", "7", 1))
    assert run(data, workspace)[0].key != first.key


def test_an_image_lost_to_a_passing_failure_comes_back(data, workspace, monkeypatch):
    with monkeypatch.context() as deadly:
        deadly.setattr("seg.data.build.RecordWriter", DeadlyWriter)
        lost, _ = run(data, workspace, on_bad="skip")
    whole, line = run(data, workspace, on_bad="skip")
    assert line.startswith("converted")
    assert (lost.splits["train"].examples, whole.splits["train"].examples) == (1, 2)
    assert lost.key != whole.key
    assert Manifest.load(lost.folder).key == lost.folder.name == lost.key
    again, line = run(data, workspace, on_bad="fail")
    assert line.startswith("up to date")
    assert again.key == whole.key


def test_a_folder_without_manifest_is_built_again(data, workspace):
    first, _ = run(data, workspace)
    (first.folder / MANIFEST).unlink()
    assert run(data, workspace)[1].startswith("converted")


CONVERT = """
import sys
from pathlib import Path
from seg.data.convert import convert
if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), image_size=512, jobs=1, progress=False, announce=print)
    print([name for name in ("tensorflow", "keras") if name in sys.modules])
"""


def start(tmp_path: Path, data: Path, workspace: Path) -> subprocess.Popen:
    script = tmp_path / "convert_once.py"
    script.write_text(CONVERT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, str(script), str(data), str(workspace)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_two_at_once_do_the_work_once(data, tmp_path, workspace):
    both = [start(tmp_path, data, workspace) for _ in range(2)]
    lines = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert sorted(line.split()[0] for line, _ in lines) == ["converted", "up"]
    assert [modules for _, modules in lines] == ["[]", "[]"]
    assert len(list((workspace / "datasets").iterdir())) == 1


def test_a_killed_conversion_leaves_nothing_that_is_trusted(tmp_path, workspace):
    data = write_export(tmp_path / "export", train=content(600))
    process = start(tmp_path, data, workspace)
    deadline = time.monotonic() + 60
    while not list((workspace / "building").glob("*/train_mask/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (left,) = [path for path in (workspace / "building").iterdir() if path.is_dir()]  # the fault did fire
    assert not (left / MANIFEST).exists()
    assert not list((workspace / "datasets").iterdir())
    (data / "test" / "image0.png").write_bytes((data / "test" / "image1.png").read_bytes())  # another key
    run(data, workspace, image_size=8)
    assert not left.exists()


def test_what_another_process_is_building_is_left_alone(data, workspace):
    other = workspace / "building" / "other"
    other.mkdir(parents=True)
    with (workspace / "building" / "other.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run(data, workspace)
    assert other.exists()


@pytest.fixture
def old_files(monkeypatch):
    monkeypatch.setattr(files, "_RACY", -(10**18))


def test_hashed_while_converted_or_before_it_is_the_same_dataset(data, tmp_path, workspace, old_files):
    first, _ = run(data, workspace)
    (tmp_path / "used" / "datasets" / "another").mkdir(parents=True)
    second, line = run(data, tmp_path / "used")
    assert line.startswith("converted")
    assert content_of(first.folder) == content_of(second.folder)
    first_hashes, second_hashes = (
        json.loads((folder / "hashes.json").read_text()) for folder in (workspace, tmp_path / "used")
    )
    assert first_hashes == second_hashes
    assert {Path(path).name for path in first_hashes} == {"image0.png", "image1.png"}
    assert len(first_hashes) == 6
    assert run(data, workspace)[1] == f"up to date: {first.folder}"
    # Whoever makes the same dataset waits in the same place.
    assert len({lock.name for folder in (workspace, tmp_path / "used") for lock in folder.glob("building/*.lock")}) == 1


@pytest.mark.parametrize("on_bad", ["skip", "fail"])
def test_a_file_that_is_whole_only_after_it_was_refused_comes_back(data, workspace, monkeypatch, on_bad):
    path = data / "train" / "image0.png"
    whole = path.read_bytes()

    def while_it_is_copied(*arguments, **options):
        path.write_bytes(whole[:-20])
        yield from map_in_processes(*arguments, **options)
        path.write_bytes(whole)

    with monkeypatch.context() as patch:
        patch.setattr("seg.data.build.map_in_processes", while_it_is_copied)
        if on_bad == "skip":
            first, _ = run(data, workspace, on_bad="skip")
            assert [problem["rule"] for problem in first.left_out] == ["image_refused"]
        else:
            with pytest.raises(BadDataError, match="image_refused"):
                run(data, workspace)
    second, line = run(data, workspace, on_bad=on_bad)
    assert line.startswith("converted")
    assert second.splits["train"].examples == 2


def test_the_entry_points_fork_too(data, workspace):
    script = """
import sys
from pathlib import Path
import seg.data.workers as workers
from seg.data.convert import convert
found, may_fork = [], workers._may_fork
workers._may_fork = lambda: found.append(may_fork()) or found[-1]
for size in (4, 8):  # the second finds a dataset, and a bar's thread that stays
    convert(Path(sys.argv[1]), Path(sys.argv[2]), image_size=size, jobs=1, progress=size == 8)
assert found == [True, True], found
"""
    command = [sys.executable, "-c", script, str(data), str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_process_that_was_overtaken_finds_what_the_other_made(data, workspace, monkeypatch):
    place, overtakers = convert_module._building_place, ["another process"]

    def overtaken(building: Path, key: str):
        if overtakers:
            overtakers.pop()
            assert run(data, workspace)[1].startswith("converted")
        return place(building, key)

    monkeypatch.setattr(convert_module, "_building_place", overtaken)
    manifest, line = run(data, workspace)
    assert line == f"up to date: {manifest.folder}"
    assert len(list((workspace / "datasets").iterdir())) == 1


def test_a_process_that_was_overtaken_by_another_dataset_makes_its_own(data, workspace, monkeypatch):
    place, overtakers = convert_module._building_place, ["another process"]

    def overtaken(building: Path, key: str):
        if overtakers:
            overtakers.pop()
            run(data, workspace, image_size=8)
        return place(building, key)

    monkeypatch.setattr(convert_module, "_building_place", overtaken)
    manifest, line = run(data, workspace)
    assert line.startswith("converted")
    assert run(data, workspace)[0].folder == manifest.folder
    assert len(list((workspace / "datasets").iterdir())) == 2


def test_a_file_that_vanishes_before_it_is_read_comes_back(data, workspace, monkeypatch):
    path = data / "train" / "image0.png"
    image = path.read_bytes()

    def first_it_vanishes(*arguments, **options):
        path.unlink()
        return map_in_processes(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("seg.data.build.map_in_processes", first_it_vanishes)
        lost, _ = run(data, workspace, on_bad="skip")
    assert [problem["rule"] for problem in lost.left_out] == ["unreadable_file"]
    assert lost.splits["train"].examples == 1
    path.write_bytes(image)
    whole, line = run(data, workspace)
    assert line.startswith("converted")
    assert whole.splits["train"].examples == 2
