"""Files between machines: only what changed, only into their folder, and each content once."""

import os
import threading
import time
from pathlib import Path

import pytest

from experiments.executors import shipping
from experiments.executors.shipping import (
    changed_files,
    content_key,
    fetch_once,
    pieces,
    private_folder,
    remove_others,
    shipped_names,
    write_files,
)
from seg.data.manifest import Manifest
from seg.errors import UserError


def test_there_and_back(tmp_path: Path) -> None:
    there, here, sent = tmp_path / "there", tmp_path / "here", {}
    assert changed_files(there, sent) == {}
    write_files(there, {"log.txt": b"a", "epochs/epoch_00001.png": b"\0"})
    (there / ".partial.model.keras").write_bytes(b"half")
    (there / "epoch_00002.partial").write_bytes(b"half")
    (there / "link").symlink_to("/etc/passwd")
    files = changed_files(there, sent)
    assert files == {"log.txt": b"a", "epochs/epoch_00001.png": b"\0"}
    write_files(here, files)
    assert (here / "epochs" / "epoch_00001.png").read_bytes() == b"\0"
    assert changed_files(there, sent) == {}
    (there / "log.txt").write_bytes(b"ab")
    assert changed_files(there, sent) == {"log.txt": b"ab"}


def test_a_file_of_the_same_size_that_changed(tmp_path: Path) -> None:
    write_files(tmp_path, {"model.keras": b"a"})
    sent: shipping.Stamps = {}
    changed_files(tmp_path, sent)
    (tmp_path / "model.keras").write_bytes(b"b")
    os.utime(tmp_path / "model.keras", ns=(0, 1))  # whatever the clock's steps are
    assert changed_files(tmp_path, sent) == {"model.keras": b"b"}


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/up", "", "a\\b", "nul\0"])
def test_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a file's name must stay within its folder, got"):
        write_files(tmp_path / "folder", {"good": b"", name: b""})
    assert list(tmp_path.rglob("*")) == []


def test_checkpoints_that_are_gone_there_go_here(tmp_path: Path) -> None:
    write_files(tmp_path, {"epoch_00001.npz": b"", "epoch_00002.npz": b""})
    remove_others(tmp_path, ["epoch_00002.npz", "epoch_00003.npz"])
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_00002.npz"]
    remove_others(tmp_path / "none", [])


def test_keys_are_of_contents(tmp_path: Path, tiny: Manifest) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"model")
    two.write_bytes(b"model")
    assert content_key(one) == content_key(two) != content_key(tiny.folder)
    assert content_key(tmp_path / "none") is None
    assert content_key(tmp_path) is None  # a folder without a manifest
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "manifest.json").write_bytes((tiny.folder / "manifest.json").read_bytes())
    assert content_key(tmp_path / "copy") == content_key(tiny.folder)


def test_what_is_shipped(tmp_path: Path) -> None:
    write_files(tmp_path, {"manifest.json": b"", "train.npy": b"", "train_mask/0.png": b"", ".lock": b""})
    assert set(shipped_names(tmp_path)) == {"manifest.json", "train.npy"}
    assert shipped_names(tmp_path / "train.npy") == {"train.npy": tmp_path / "train.npy"}


def test_large_files_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "PIECE_BYTES", 4)
    (tmp_path / "records").write_bytes(b"0123456789")
    assert list(pieces(tmp_path / "records")) == [b"0123", b"4567", b"89"]


def test_a_content_is_fetched_once(tmp_path: Path) -> None:
    fetched = []

    def fetch(folder: Path) -> None:
        fetched.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text("whole")

    threads = [threading.Thread(target=fetch_once, args=(tmp_path, "abc", fetch)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert (fetch_once(tmp_path, "abc", fetch) / "file").read_text() == "whole"


def test_a_fetch_that_failed_leaves_nothing_to_trust(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fetch_once(tmp_path, "abc", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["abc.lock"]
    (tmp_path / ".partial.abc").mkdir()  # and one that was killed
    (tmp_path / ".partial.abc" / "file").write_text("half")
    assert list(fetch_once(tmp_path, "abc", lambda folder: None).iterdir()) == []


def test_the_folder_of_shipped_files_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder
    folder.chmod(0o755)
    with pytest.raises(UserError, match=r"segmentation-trials-\d+ must be a folder of this user alone; remove it\."):
        private_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="of this user alone"):
        private_folder()
