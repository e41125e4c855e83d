"""What the documents tell people to type: each command is read by its own parser, and then run.

Those that take seconds are run here, on a few images (`RUN_HERE`), and the tutorial from its first `bash` block to its
last. The others take hours, a port or a network: `ELSEWHERE` names, for each, the test that runs the same. A command
that is in neither fails.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml

from experiments.registry.registry import Registry
from experiments.tracking.tracker import Tracker
from seg.data.demo import write_demo

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.M)
SHELL, OTHER = ("sh", "bash"), ("python", "text", "yaml")

# What makes a command small enough to run here; its own options stay unless they are named.
RUN_HERE = {
    "audit": ["--image_size=32"],
    "export_coco": ["--image_size=32"],
    "predict": [],
    "promote": [],
    "report": [],
    "sync": [],
}
_END_TO_END, _CI = "tests/test_end_to_end.py::", ".ci/run"
# First words of a command: the test that runs the like of it.
ELSEWHERE = {
    "main": f"{_END_TO_END}test_main_leaves_one_parent_and_its_trials",
    "study": f"{_END_TO_END}test_study",
    "train": f"{_END_TO_END}test_train_then_evaluate_its_run",
    "compare": "tests/test_compare.py::test_the_whole_command_twice",
    "reproduce": "tests/test_reproduce.py::test_the_same_model_again",
    "serve": "tests/test_serve.py::test_a_mask_is_the_one_of_this_process_pixel_for_pixel",
    "app": "tests/test_app.py::test_upload_slider_download",
    "curl": "tests/test_serve.py::test_curl_as_documented",
    "printf": "tests/test_serve.py::test_curl_as_documented",
    "python -c": "tests/test_serve.py::test_curl_as_documented",
    "mlflow server": "tests/test_tracking.py::test_a_real_server",
    "docker compose": "tests/test_server_mode.py::test_a_study_through_it_writes_no_password",  # the same commands
    "read": "tests/test_server_mode.py::test_a_study_through_it_writes_no_password",
    "export MLFLOW_TRACKING_PASSWORD": "tests/test_server_mode.py::test_a_study_through_it_writes_no_password",
    "export PGPASSWORD": "tests/test_server_mode.py::test_a_study_through_it_writes_no_password",
    "mlflow ui": "tests/test_tracking.py::test_a_real_server",  # the same server
    "export MLFLOW_TRACKING_URI": "tests/test_tracking.py::test_a_real_server",
    "python3 -m venv": _CI,  # which runs the README's second block
    ". .venv/bin/activate": _CI,
    "pip install": _CI,
    "python -m pytest": _CI,
    "python -m benchmarks": "tests/test_benchmarks.py::test_the_parts_measure",
    "cd": "docs/how-to/cluster.md",  # of a batch script, of which the page says that nobody has run it
    "trap": "docs/how-to/cluster.md",
    "srun": "docs/how-to/cluster.md",
    "sleep": "docs/how-to/cluster.md",
    "wait": "docs/how-to/cluster.md",
}


def blocks(page: Path, *languages: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def commands() -> list[tuple[str, str]]:
    """Every command line of every page, with the page's name; comments and continued lines undone."""
    lines = []
    for page in PAGES:
        for block in blocks(page, *SHELL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|", line):
                    if part.strip() and not part.strip().startswith("#"):
                        lines.append((str(page.relative_to(ROOT)), part.strip().removesuffix("&").strip()))
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


def first_words(command: str) -> str:
    """What `RUN_HERE` or `ELSEWHERE` calls a command; the command itself where they do not know it."""
    found = verb_and_options(command)
    if found is not None:
        return found[0]
    return next((words for words in ELSEWHERE if re.match(rf"{re.escape(words)}\b", command)), command)


RUN = [(page, command) for page, command in commands() if first_words(command) in RUN_HERE]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block without a language would be passed over, and so would what it tells people to type."""
    text = page.read_text(encoding="utf-8")
    languages = [language for language, _ in BLOCK.findall(text)]
    assert set(languages) <= {*SHELL, *OTHER}
    assert len(re.findall("^```", text, re.M)) == 2 * len(languages)


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_is_one_that_exists(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = first_words(command)
    assert words in RUN_HERE or words in ELSEWHERE, f"{page}: {command}: run it here, or name the test that does"
    found = verb_and_options(command)
    if found is not None:
        verb, options = found
        project = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
        assert verb in project["entry_points"], f"{page}: {command}"
        build_parser = importlib.import_module(f"experiments.{verb}").build_parser
        try:
            build_parser().parse_args(options)
        except SystemExit:
            pytest.fail(f"{page}: {command}: {capsys.readouterr().err}")


@pytest.mark.parametrize("words", ELSEWHERE)
def test_what_runs_elsewhere_is_there(words: str) -> None:
    assert words in {first_words(command) for _, command in commands()}, f"no page has {words}: delete it here"
    file, _, test = ELSEWHERE[words].partition("::")
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8") if test else (ROOT / file).is_file()


def test_the_commands_for_curl_are_those_that_are_run() -> None:
    guide = (ROOT / "docs/how-to/serve.md").read_text(encoding="utf-8")
    for page, command in commands():
        if command.startswith("curl"):
            assert command in guide, f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_and_yaml_can_be_read(page: Path) -> None:
    for script in blocks(page, *SHELL):
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
    for text in blocks(page, "yaml"):
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(text))


def test_extras_that_are_installed_are_there() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = {extra for _, command in commands() for extra in re.findall(r"\.\[(\w+)\]", command)}
    assert named == {"dev", "app", "gpu", "ray", "postgres"}
    for extra in named:
        assert re.search(rf"^{extra} = \[", project, re.M), extra


def name_patients(export: Path) -> None:
    """As a tool may export them: the group of each image in a field of its own."""
    for path in export.rglob("_annotations.coco.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for image in content["images"]:
            image["patient_id"] = image["file_name"].partition("_")[0]
        path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands: the folders that the pages name, a study `unet`, and its model as three versions."""
    folder = tmp_path_factory.mktemp("docs")
    write_demo(folder / "export", train=2, valid=1, test=1)  # patients
    name_patients(folder / "export")
    write_demo(folder / "FOLDER", train=4, valid=2, test=2)
    scans = folder / "scans" / "first"
    scans.mkdir(parents=True)
    pictures = sorted(path for path in (folder / "export" / "test").iterdir() if path.suffix == ".png")
    for path in pictures[:2]:
        shutil.copy(path, scans)
    small = "--data=export --image_size=32 --filters=4 --depth=2 --epochs=1 --loss=bce --study=unet"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    ran = subprocess.run(
        [sys.executable, "-m", "experiments.main", *small.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", None)
    client = mlflow.MlflowClient(tracker.uri, tracker.uri)
    first = client.get_model_version("seg-unet", "1")
    (final,) = (path.parent for path in (folder / "workspace").rglob("per_image.csv"))
    for _ in range(2):
        run = client.create_run(client.get_run(first.run_id).info.experiment_id).info.run_id
        tracker.log_folder(run, final, "final")
        client.create_model_version("seg-unet", first.source, run, tags=first.tags | {"run": run})
    assert Registry(tracker.uri).newest("seg-unet").version == "3"
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("page", "command"), RUN)
def test_a_command_runs(page: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the pages: a rollback needs the promotion before it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    found = verb_and_options(command)
    assert found is not None
    verb, options = found
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    shutil.rmtree(folder / "coco", ignore_errors=True)
    code = importlib.import_module(f"experiments.{verb}").main([*options, *RUN_HERE[verb]])
    # An audit says so where it finds errors, and the demo has some in it.
    assert code in ((0, 3) if verb == "audit" else (0,)), f"{page}: {command}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one line leaves a file to be closed
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_python_of_the_pages_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    # MLflow puts the model's own code into it, where later tests' processes would find it before the project's.
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_tracking_uri(uri)
    model = Registry(uri).champion("seg-unet")
    assert model is not None
    for name in ("champion", "model"):
        mlflow.artifacts.download_artifacts(artifact_uri=f"models:/seg-unet/{model.version}", dst_path=name)
    shutil.copy(next((folder / "scans").rglob("*.png")), folder / "image.jpg")
    codes = blocks(ROOT / page, "python")
    assert codes
    for code in codes:
        exec(code, {})


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
    """Its `bash` blocks; its `sh` blocks are for later, or start servers: they are among the commands above."""
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
