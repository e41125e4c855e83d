"""What a study was made with: the command comes back as it was given, without passwords."""

import shlex

import pytest

from experiments import main, study
from experiments.studies.study_origin import StudyOrigin, command_line, origin_file
from seg.errors import UserError


def line(entry_point, arguments: list[str], tracking: str | None = None) -> str:
    built = entry_point.build_parser()
    return command_line(entry_point.__name__.rpartition(".")[2], built, built.parse_args(arguments), tracking)


def test_only_what_differs_from_the_defaults():
    assert line(study, ["--loss=bce", "--epochs=20"]) == "python -m experiments.study --loss=bce"


def test_quoted_for_a_shell_and_read_back():
    data = "my scans; rm -rf ~ '$(x)'"
    words = shlex.split(line(main, [f"--data={data}", "--preset=seed"]))
    assert words == ["python", "-m", "experiments.main", f"--data={data}", "--preset=seed"]


def test_no_password_is_kept():
    found = line(
        study, ["--storage=postgresql://me:secret@host/db?password=secret"], "https://me:secret@mlflow.example"
    )
    assert "secret" not in found
    assert found.startswith("MLFLOW_TRACKING_URI=https://mlflow.example python -m experiments.study ")


def test_saved_and_loaded(tmp_path):
    made = StudyOrigin.here("python -m experiments.main", None)
    assert {"python", "tensorflow", "numpy"} <= made.versions.keys()
    path = origin_file(tmp_path, "unet", "0123456789")
    made.save(path)
    assert path == tmp_path / "studies" / "unet" / "study_01234567.json"
    assert StudyOrigin.load(path) == made


@pytest.mark.parametrize("content", [None, "", "[]", '{"command": "x"}'])
def test_missing_or_damaged(tmp_path, content):
    path = tmp_path / "study.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="must be there and whole"):
        StudyOrigin.load(path)
