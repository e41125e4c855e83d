"""What a run keeps of its machine and software comes back as it was, and nothing else is taken for it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.command_line import code_version
from experiments.jobs.environment import PACKAGES, Environment, installed_versions
from seg.errors import UserError

ROOT = Path(__file__).parent.parent
MADE = Environment(
    python="3.11.9",
    packages={"tensorflow": "2.21.0", "numpy": "2.4.6"},
    system="Linux x86_64",
    cpu="Some CPU",
    instructions="avx2 fma",
    cores=2,
    threads={"intra_op": 0, "inter_op": 0},
    devices=("CPU",),
    flags={"OMP_NUM_THREADS": "2"},
    git_commit="0123",
    uncommitted="",
    code={"seg/losses.py": "abc"},
    precision="float32",
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_the_packages_are_those_that_the_project_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [pin.partition("==")[0] for pin in project["dependencies"]] == list(PACKAGES)
    assert {"tensorflow", "numpy", "h5py"} <= installed_versions().keys()


def test_the_code_is_what_was_imported():
    # In a process of its own: other tests import other files.
    script = (
        "import json, experiments.command_line.code_version as code, seg.config; print(json.dumps(code.loaded_code()))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    code = json.loads(ran.stdout)
    assert {"experiments/command_line/code_version.py", "seg/config.py", "seg/errors.py"} <= code.keys()
    assert "seg/losses.py" not in code
    content = (ROOT / "seg" / "config.py").read_bytes()
    assert code["seg/config.py"] == hashlib.sha256(content).hexdigest()[:20]


def test_changes_that_are_not_committed(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    def changes():
        code_version.uncommitted_changes.cache_clear()
        return code_version.uncommitted_changes()

    monkeypatch.setattr(code_version, "__file__", str(tmp_path / "code_version.py"))
    assert changes() == ""  # no repository
    git("init")
    (tmp_path / "file.py").write_text("1\n")
    git("add", "file.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    assert changes() == ""
    (tmp_path / "file.py").write_text("2\n")
    two = changes()
    (tmp_path / "file.py").write_text("3\n")
    assert re.fullmatch("[0-9a-f]{20}", two)
    assert changes() not in ("", two)
    monkeypatch.undo()
    code_version.uncommitted_changes.cache_clear()


def test_code_that_is_written_after_its_import_did_not_run(tmp_path):
    package = tmp_path / "seg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text("VERSION = 1\n")
    script = (
        "import pathlib, seg.losses, experiments.command_line.code_version as code; code.note_code(); "
        "pathlib.Path(seg.losses.__file__).write_text('VERSION = 2'); print(code.loaded_code()['seg/losses.py'])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip() == hashlib.sha256(b"VERSION = 1\n").hexdigest()[:20]


def test_written_and_read():
    assert Environment.read(MADE.as_json()) == MADE


def test_an_older_record_does_not_say_the_number_format():
    content = json.loads(MADE.as_json())
    del content["precision"]
    assert Environment.read(json.dumps(content)) == replace(MADE, precision="")


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000])
def test_what_is_none(text):
    with pytest.raises(UserError, match=r"environment.json of the run must be as training wrote it"):
        Environment.read(text)


@given(field=st.sampled_from(sorted(asdict(MADE))), value=ANY_JSON)
def test_a_field_of_any_other_kind_is_refused_or_read_as_it_stands(field, value):
    text = json.dumps(json.loads(MADE.as_json()) | {field: value})
    try:
        found = Environment.read(text)
    except UserError:
        return
    assert found == replace(MADE, **{field: tuple(value) if isinstance(value, list) else value})
    assert type(value) is type(json.loads(MADE.as_json())[field])


@given(st.text() | ANY_JSON.map(json.dumps))
def test_any_text_is_one_line_of_error(text):
    with pytest.raises(UserError):
        Environment.read(text)


def test_code_that_was_sent_here_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = code_version.code_variables()
    assert sent == {
        "SEG_GIT_COMMIT": code_version.git_commit() or "",
        "SEG_UNCOMMITTED_CHANGES": code_version.uncommitted_changes(),
    }
    for name in sent:
        monkeypatch.setenv(name, f"of {name}")
    _forget_the_code()
    try:
        assert code_version.code_variables() == {name: f"of {name}" for name in sent}
    finally:
        _forget_the_code()


def _forget_the_code() -> None:
    code_version.git_commit.cache_clear()
    code_version.uncommitted_changes.cache_clear()
