"""What the documents tell people to type exists, and the tutorial runs from its first command to its last."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seg.data.demo import write_demo

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path, *languages: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def commands() -> list[tuple[str, str]]:
    """Every command line of every page, with the page's name; comments and continued lines undone."""
    lines = []
    for page in PAGES:
        for block in blocks(page, "sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|", line):
                    if part.strip() and not part.strip().startswith("#"):
                        lines.append((str(page.relative_to(ROOT)), part.strip()))
    return lines


def verb_and_options(command: str) -> tuple[str, list[str]] | None:
    """The entry point that a command starts, and its options as flags; None for any other command."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["mlflow", "run"]:
        verb = words[words.index("-e") + 1] if "-e" in words else "main"
        given = [words[place + 1] for place, word in enumerate(words) if word == "-P"]
        return verb, [f"--{option}" for option in given]
    if words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
        return words[2].removeprefix("experiments."), words[3:]
    return None


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_is_one_that_exists(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = verb_and_options(command)
    if found is None:
        return
    verb, options = found
    project = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    assert verb in project["entry_points"], f"{page}: {command}"
    build_parser = importlib.import_module(f"experiments.{verb}").build_parser
    try:
        build_parser().parse_args(options)
    except SystemExit:
        pytest.fail(f"{page}: {command}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for named in re.findall(r"`((?:seg|experiments|tests|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / named).exists() or (ROOT / f"{named}.py").exists(), f"{page.name} names {named}"


def test_the_loss_of_the_page_is_one() -> None:
    import numpy as np
    import tensorflow as tf

    import seg.losses

    (code,) = blocks(ROOT / "docs/how-to/custom.md", "python")
    names = dict(vars(seg.losses))
    exec(code, names)
    masks = np.zeros((2, 4, 4, 1), np.float32)
    masks[1] = 255
    found = names["focal"](tf.constant(masks), tf.zeros((2, 4, 4, 1)))
    # A probability of 1/2 where there is none: weight 1/4, entropy ln 2; the second image is ignored.
    assert found.numpy().tolist() == pytest.approx([0.25 * np.log(2), 0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_runs(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    write_demo(tmp_path / "export", train=6, valid=3, test=3)  # patients
    for block in blocks(ROOT / "docs/tutorial.md", "bash"):
        for command in block.strip().splitlines():
            words = shlex.split(command)
            assert words[0] == "python"
            ran = subprocess.run(
                [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    assert (tmp_path / "audit" / "audit.html").exists()
    assert list((tmp_path / "predictions").rglob("*.png"))
