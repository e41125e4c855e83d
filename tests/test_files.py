import hashlib
import json
import os

import pytest

import seg.data.files
from seg.data.files import MAX_ANNOTATIONS, HashCache, ImageFolder, read_annotation_file
from seg.data.segmentation import BrokenRule
from seg.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "export" / "train" / "inner").mkdir(parents=True)
    (tmp_path / "export" / "train" / "a.png").write_bytes(b"a")
    (tmp_path / "export" / "train" / "inner" / "b.png").write_bytes(b"b")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return tmp_path / "export" / "train"


def rule(folder, name: str) -> str:
    with pytest.raises(BrokenRule) as caught:
        ImageFolder(folder, folder.parent).locate(name)
    return caught.value.rule


def test_found(folder):
    assert ImageFolder(folder, folder.parent).locate("inner/b.png")[0] == folder / "inner" / "b.png"


def test_link_within_the_export(folder):
    (folder / "link.png").symlink_to(folder / "a.png")
    assert ImageFolder(folder, folder.parent).locate("link.png")[0] == folder / "link.png"


def test_link_out_of_the_export(folder):
    (folder / "link.png").symlink_to(folder.parent.parent / "secret.png")
    assert rule(folder, "link.png") == "link_outside"


def test_folder_that_is_a_link_out(folder):
    (folder / "up").symlink_to(folder.parent.parent)
    assert rule(folder, "up/secret.png") == "link_outside"


def test_image_folder_that_is_a_link_out(folder):
    (folder.parent / "test").symlink_to(folder.parent.parent)
    assert rule(folder.parent / "test", "secret.png") == "link_outside"


def test_missing(folder):
    assert rule(folder, "none.png") == "missing_file"


def test_name_too_long(folder):
    assert rule(folder, "x" * 300) == "unreadable_file"


def test_folder_and_pipe(folder):
    os.mkfifo(folder / "pipe.png")
    assert rule(folder, "inner") == "unreadable_file"
    assert rule(folder, "pipe.png") == "unreadable_file"


def test_too_large(folder, monkeypatch):
    monkeypatch.setattr(seg.data.files, "MAX_BYTES", 0)
    assert rule(folder, "a.png") == "file_too_large"


class TestHashCache:
    @pytest.fixture(autouse=True)
    def old_files(self, monkeypatch):
        monkeypatch.setattr(seg.data.files, "_RACY", -(10**18))

    def hashes(self, path, folder, *names):
        cache = HashCache(path)
        found = cache.hashes([(folder / name, (folder / name).stat()) for name in names])
        cache.save()
        return found

    def test_hashes_and_remembers(self, folder, tmp_path):
        path = tmp_path / "hashes.json"
        expected = [hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()]
        assert self.hashes(path, folder, "a.png", "inner/b.png") == expected
        content = json.loads(path.read_text())
        content[str(folder / "a.png")][-1] = "remembered"
        path.write_text(json.dumps(content))
        assert self.hashes(path, folder, "a.png", "inner/b.png") == ["remembered", expected[1]]

    def test_changed_file_is_read_again(self, folder, tmp_path):
        path = tmp_path / "hashes.json"
        self.hashes(path, folder, "a.png")
        (folder / "a.png").write_bytes(b"c")
        assert self.hashes(path, folder, "a.png") == [hashlib.sha256(b"c").hexdigest()]

    def test_young_file_is_not_remembered(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(seg.data.files, "_RACY", 10**18)
        self.hashes(tmp_path / "hashes.json", folder, "a.png")
        assert not (tmp_path / "hashes.json").exists()

    def test_what_somebody_else_has_read_is_remembered(self, folder, tmp_path):
        path, file = tmp_path / "hashes.json", folder / "a.png"
        cache = HashCache(path)
        assert cache.known(file, file.stat()) == ""
        cache.learn(file, "said")
        cache.learn(folder / "never_asked.png", "said")
        cache.save()
        assert HashCache(path).known(file, file.stat()) == "said"
        assert list(json.loads(path.read_text())) == [str(file)]

    def test_of_a_young_file_nothing_is_learnt(self, folder, tmp_path, monkeypatch):
        file = folder / "a.png"
        cache = HashCache(tmp_path / "hashes.json")
        with monkeypatch.context() as patch:
            patch.setattr(seg.data.files, "_RACY", 10**18)  # what counts is when it was asked for
            assert cache.known(file, file.stat()) == ""
        cache.learn(file, "said")
        assert cache.known(file, file.stat()) == ""

    @pytest.mark.parametrize("content", ["", "{", "[]", "3"])
    def test_damaged_cache_is_forgotten(self, folder, tmp_path, content):
        (tmp_path / "hashes.json").write_text(content)
        assert self.hashes(tmp_path / "hashes.json", folder, "a.png") == [hashlib.sha256(b"a").hexdigest()]

    def test_file_that_vanished(self, folder, tmp_path):
        found = (folder / "a.png").stat()
        (folder / "a.png").unlink()
        (broken,) = HashCache(tmp_path / "hashes.json").hashes([(folder / "a.png", found)])
        assert isinstance(broken, BrokenRule)
        assert broken.rule == "unreadable_file"


class TestAnnotationFile:
    def test_content(self, folder):
        (folder / "a.json").write_bytes(b"{}")
        (folder / "link.json").symlink_to(folder / "a.json")
        assert read_annotation_file(folder / "a.json", folder.parent) == b"{}"
        assert read_annotation_file(folder / "link.json", folder.parent) == b"{}"

    def test_export_that_is_a_link(self, folder, tmp_path):
        (folder / "a.json").write_bytes(b"{}")
        (tmp_path / "link").symlink_to(folder.parent)
        assert read_annotation_file(tmp_path / "link" / "train" / "a.json", tmp_path / "link") == b"{}"

    def test_pipe_is_not_opened(self, folder):
        os.mkfifo(folder / "pipe.json")
        with pytest.raises(UserError, match=r"pipe.json must be a file"):
            read_annotation_file(folder / "pipe.json", folder.parent)

    def test_link_out_of_the_export(self, folder):
        (folder / "link.json").symlink_to(folder.parent.parent / "secret.png")
        with pytest.raises(UserError, match=r"link.json must not be a link out of"):
            read_annotation_file(folder / "link.json", folder.parent)

    def test_too_large(self, folder):
        with (folder / "large.json").open("wb") as file:
            file.truncate(MAX_ANNOTATIONS + 1)  # takes no room
        with pytest.raises(UserError, match=r"must have at most 2147483648 bytes, got 2147483649"):
            read_annotation_file(folder / "large.json", folder.parent)

    def test_missing(self, folder):
        with pytest.raises(UserError, match=r"none.json cannot be read"):
            read_annotation_file(folder / "none.json", folder.parent)
