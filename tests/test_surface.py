"""The surface is frozen: MLproject's parameters, flags and configuration fields agree in names and defaults."""

import importlib
import re
import shlex
import tomllib
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.command_line.options import OPTIONS
from seg.config import TrainConfig

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
VERBS = (
    "main",
    "convert",
    "audit",
    "export_coco",
    "train",
    "study",
    "compare",
    "reproduce",
    "evaluate",
    "predict",
    "report",
    "promote",
    "serve",
    "app",
    "dashboard",
    "doctor",
    "verify",
    "sync",
    "benchmark",
)
MODULES = {verb: f"experiments.{verb}" for verb in VERBS} | {"benchmark": "benchmarks.__main__"}


def entry_point(verb: str) -> Any:
    """The module of a verb."""
    return importlib.import_module(MODULES[verb])


def flags(verb: str) -> dict[str, Any]:
    """The defaults of an entry point's flags, by name."""
    built: ArgumentParser = entry_point(verb).build_parser()
    return {action.dest: action.default for action in built._actions if action.dest != "help"}


def test_every_verb_is_an_entry_point() -> None:
    assert tuple(PROJECT["entry_points"]) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_parameters_are_the_flags(verb: str) -> None:
    parameters = PROJECT["entry_points"][verb]["parameters"]
    assert {name: str(entry["default"]) for name, entry in parameters.items()} == {
        name: str(default) for name, default in flags(verb).items()
    }


@pytest.mark.parametrize("verb", VERBS)
def test_command_passes_every_parameter(verb: str) -> None:
    entry = PROJECT["entry_points"][verb]
    words = shlex.split(entry["command"])
    assert words[:3] == ["python", "-m", MODULES[verb].removesuffix(".__main__")]
    assert words[3:] == [f"--{name}={{{name}}}" for name in entry["parameters"]]


@pytest.mark.parametrize("verb", VERBS)
def test_placeholders_are_not_quoted(verb: str) -> None:
    # MLflow quotes the values itself; quotes around a placeholder would undo them.
    assert not re.search(r"""["']\{""", PROJECT["entry_points"][verb]["command"])


def test_train_takes_every_field_with_its_default() -> None:
    fields = TrainConfig().as_dict()
    assert {name: value for name, value in flags("train").items() if name in fields} == fields


@pytest.mark.parametrize("verb", VERBS)
def test_a_flag_means_the_same_everywhere(verb: str) -> None:
    assert set(flags(verb)) <= set(OPTIONS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_each_option_does(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        entry_point(verb).build_parser().parse_args(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())  # without its line breaks
    for name in flags(verb):
        assert f"--{name}" in text
    assert text.count("(default: ") == len(flags(verb))


def test_hyphens_work_too() -> None:
    built = importlib.import_module("experiments.train").build_parser()
    assert built.parse_args(["--image-size", "128"]).image_size == 128
    assert built.parse_args(["--image_size", "128"]).image_size == 128


def test_unknown_flag_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("experiments.train").build_parser().parse_args(["--imagesize", "128"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_both_environments_pin_the_same() -> None:
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))["dependencies"]
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert conda[-1]["pip"] == package
