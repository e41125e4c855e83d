"""The card: every number is the artifact's, hostile names stay text, and the page needs nothing else."""

import argparse
import csv
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest

from experiments.card import publish
from experiments.card.publish import command, essence, publish_card
from experiments.card.render import as_html, as_markdown, write_card
from experiments.card.sections import Subject, build_card
from experiments.registry.promotion import Decision
from experiments.registry.registry import ModelInfo
from experiments.storage.stored_study import Selection
from experiments.studies.finish import Finished
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from tests.tiny import write_tiny

HOSTILE = "<script>alert(1)</script>|`x` [a](b) *c*\n# d \"'"
INTERVAL = {"mean": 0.8125, "low": 0.75, "high": 0.875}
EVALUATION: dict[str, Any] = {
    "split": "test",
    "threshold": 0.35,
    "examples": 5,
    "empty": 1,
    "scores": {"dice": INTERVAL, "dice_own_size": {"mean": 0.7, "low": 0.6, "high": 0.8}},
    "baselines": {"all_background": 0.2, "nearest_image": 0.45},
    "threshold_curve": {"thresholds": [0.25, 0.35, 0.5], "val": [0.5, 0.9, 0.6], "test": [0.4, 0.8, 0.5]},
    "calibration": {
        "bins": [
            {"low": 0.0, "high": 0.1, "pixels": 90, "probability": 0.05, "foreground": 0.0},
            {"low": 0.1, "high": 0.2, "pixels": 0, "probability": None, "foreground": None},
            {"low": 0.9, "high": 1.0, "pixels": 10, "probability": 0.95, "foreground": 1.0},
        ],
        "expected_error": 0.0625,
    },
    "by_size": [{"name": "small", "images": 4, "smallest": 0.01, "largest": 0.25, "dice_own_size": INTERVAL}],
    "by_group": [
        {"name": f"patient {number}", "images": 2, "smallest": 0.0, "largest": 1.0, "dice_own_size": INTERVAL}
        for number in range(12)
    ],
    "speed": {"machine": "a processor", "batch_size": 16, "images_per_second": 123.4, "latency_ms": 5.6},
}
AUDIT = {
    "findings": [
        {"severity": "error", "title": "4 test images are in training", "meaning": "The score is memory."},
        {"severity": "info", "title": "sizes differ", "meaning": "Good to know."},
    ]
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "final_0000_01234567"
    (folder / "panels").mkdir(parents=True)
    for number in range(2):
        cv2.imwrite(str(folder / "panels" / f"worst_{number}.png"), np.full((40, 160, 3), 90 * number, np.uint8))
    with (folder / "per_image.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "dice"])
        table.writerows([["good.png", 0.9], ["bad.png", 0.125], [HOSTILE, 0.0]])
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def subject(folder: Path, manifest: Manifest) -> Subject:
    return Subject(
        version=ModelInfo(name="seg-unet", version="3", run_id="abc123", test_key="tiny-test-0", dice=0.7),
        decision=Decision(promoted=False, reason="version 1 stays champion: for a reason"),
        evaluation=EVALUATION,
        folder=folder,
        manifest=manifest,
        licences=("CC BY 4.0",),
        audit=AUDIT,
        config=TrainConfig().as_dict(),
        command="python -m experiments.main --data=demo",
        versions={"Python": "3.11.9", "git commit": "deadbeef"},
        study_run="parent456",
    )


def test_several_classes_have_scores_and_no_threshold(subject: Subject, curves: Path) -> None:
    scores = EVALUATION["scores"] | {"dice_edema": INTERVAL}
    evaluation = EVALUATION | {"threshold": None, "threshold_curve": {}, "scores": scores}
    manifest = replace(subject.manifest, classes=("edema", "core"))
    card = build_card(replace(subject, evaluation=evaluation, manifest=manifest), curves)
    assert ("threshold", "none: the highest class") in card.facts
    assert ("finds", "edema, core") in card.facts
    sections = {section.title: section for section in card.sections}
    assert [picture.name for picture in sections["Calibration"].pictures] == ["calibration.png"]
    rows = sections["Scores"].table.rows  # type: ignore[union-attr]
    told = "Dice of edema over the images in which it is there or predicted"
    assert ("dice_edema", "0.812 (0.750 to 0.875)", told) in rows
    assert any("One class per pixel" in point for point in sections["Intended use and limits"].points)


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    curves = tmp_path / "card"
    curves.mkdir()
    publish.draw_threshold_curve(EVALUATION, curves / "threshold_curve.png")
    publish.draw_calibration(EVALUATION, curves / "calibration.png")
    return curves


class Page(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_both_forms_hold_every_number_and_its_artifact(subject: Subject, curves: Path) -> None:
    card = build_card(subject, curves)
    told = (
        "seg-unet, version 3",
        "0.812 (0.750 to 0.875)",
        "copying the mask of the most similar training image scores 0.450",
        "0.700 (0.600 to 0.800)",
        "1.00% to 25.00%",
        "Expected calibration error 0.062",
        "at least 0.35: tuned on validation",
        "The 10 lowest of 12 groups",
        "bad.png: Dice 0.125",
        "1 of 3 score 0",
        "CC BY 4.0",
        "error: 4 test images are in training. The score is memory.",
        "123.4 images per second",
        "5.6 ms",
        "a processor",
        "version 1 stays champion: for a reason",
        "python -m experiments.main --data=demo",
        "deadbeef",
        "Not a medical device",
        "final/evaluation.json → scores, baselines",
        "docs/protocol.md",
        "tiny-test-0",
    )
    page = Page(as_html(card)).text
    markdown = re.sub(r"\\(.)", r"\1", as_markdown(card))
    for text in told:
        assert text in page, text
        assert text in markdown, text
    assert "sizes differ" not in page  # notes of the audit do not concern trust


def test_the_page_needs_nothing_else(subject: Subject, curves: Path) -> None:
    page = Page(as_html(build_card(subject, curves)))
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 4  # two curves, two failures
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}


@pytest.mark.parametrize("name", [HOSTILE, "</style><script>x</script>", '" onload="x'])
def test_hostile_names_stay_text(subject: Subject, curves: Path, name: str) -> None:
    hostile = replace(
        subject,
        version=replace(subject.version, name=name),
        manifest=replace(subject.manifest, name=name, categories=[{"name": name, "used": True, "annotations": 1}]),
        licences=(name,),
        audit={"findings": [{"severity": "error", "title": name, "meaning": name}]},
        evaluation=EVALUATION | {"by_group": [EVALUATION["by_group"][0] | {"name": name}]},
        command=name,
    )
    card = build_card(hostile, curves)
    page = Page(as_html(card))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert name.split("\n")[0] in page.text
    markdown = as_markdown(card)
    outside_code = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert "<" not in outside_code
    assert "[a](b)" not in outside_code
    columns = {re.sub(r"\\\|", "", line).count("|") for line in markdown.splitlines() if line.startswith("| small")}
    assert columns == {5}  # four cells: no name opens another


def test_colours_follow_what_the_model_must_beat(subject: Subject, curves: Path) -> None:
    def severity(baseline: float) -> str:
        return build_card(replace(subject, evaluation=EVALUATION | {"baselines": {"x": baseline}}), curves).severity

    # Dice is 0.8125, its interval begins at 0.75.
    assert [severity(0.7), severity(0.78), severity(0.82)] == ["info", "warning", "error"]


def test_what_is_not_there_is_said(subject: Subject, curves: Path) -> None:
    bare = EVALUATION | {"by_group": [], "threshold_curve": {"thresholds": [0.35], "test": [0.8]}}
    page = Page(as_html(build_card(replace(subject, evaluation=bare, audit=None, licences=()), curves))).text
    assert "By group" not in page
    assert "given, not tuned here" in page
    assert "The data was not audited." in page
    assert "not stated in the export" in page
    clean = Page(as_html(build_card(replace(subject, audit={"findings": []}), curves))).text
    assert "Nothing to object." in clean


def test_files(subject: Subject, curves: Path, tmp_path: Path) -> None:
    write_card(build_card(subject, curves), curves)
    names = {path.name for path in curves.iterdir()}
    assert names == {"card.md", "card.html", "threshold_curve.png", "calibration.png", "worst_0.png", "worst_1.png"}
    for name in re.findall(r"!\[.*\]\((.*?)\)", (curves / "card.md").read_text(encoding="utf-8")):
        assert (curves / name).is_file()
    assert cv2.imread(str(curves / "calibration.png")).shape[1] > 600


def test_the_command_has_every_option_and_no_password() -> None:
    values = argparse.Namespace(data="my data", storage="postgresql://ann:secret@host/db", trials=0)
    assert command("main", values) == (
        "python -m experiments.main '--data=my data' '--storage=postgresql://ann:***@host/db' --trials=0"
    )


def test_the_description_fits_and_leads_to_the_card(subject: Subject, curves: Path) -> None:
    text = essence(build_card(subject, curves), "abc123")
    assert len(text) < 5000
    assert "runs:/abc123/card/card.html" in text
    assert "Not a medical device" in text
    assert "How to make it again" not in text


def test_publish(folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", None)
    client = mlflow.MlflowClient(tracker.uri, tracker.uri)
    run = client.create_run(client.create_experiment("card", (tmp_path / "artifacts").as_uri())).info.run_id
    client.create_registered_model("seg-unet")
    client.create_model_version("seg-unet", tmp_path.as_uri(), run)
    monkeypatch.setattr(publish.datasets, "export_folder", lambda values: tmp_path)
    monkeypatch.setattr(publish, "stated_licences", lambda data: ("CC0",))
    finished = Finished(
        selection=Selection(trial=0, rule="best", best=0, standard_error=None, because="it is the best"),
        arm="bce",
        config=asdict(TrainConfig()),
        folder=folder,
        evaluation=EVALUATION,
        version=ModelInfo(name="seg-unet", version="1", run_id=run, test_key="k", dice=0.7),
        decision=Decision(promoted=True, reason="the first champion"),
    )
    audited = tmp_path / "audit"
    values = argparse.Namespace(data="demo")
    publish_card(finished, "parent", manifest, audited, tracker, values)
    audited.mkdir()
    (audited / "audit.json").write_text(json.dumps(AUDIT))
    publish_card(finished, "parent", manifest, audited, tracker, values)  # again: the same place
    names = {file.path for file in client.list_artifacts(run, "card")}
    assert {"card/card.html", "card/card.md", "card/calibration.png", "card/worst_0.png"} <= names
    description = client.get_model_version("seg-unet", "1").description
    assert description.startswith("# seg-unet, version 1")
    page = (folder.with_name("card_0000_01234567") / "card.html").read_text(encoding="utf-8")
    assert "4 test images are in training" in page


def test_what_the_diagonal_means(subject: Subject, curves: Path) -> None:
    """Below a probability of a half, more foreground than predicted is no reason to be surer."""
    sections = build_card(subject, curves).sections
    (text,) = (part for section in sections for part in section.paragraphs if "diagonal" in part)
    assert text.endswith("Above the diagonal foreground is more frequent there than predicted; below it, less.")
