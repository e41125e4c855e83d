"""From what is known about a registered model to the sections of its card. Every number names its artifact."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.card.content import Card, Picture, Section, Table
from experiments.registry.promotion import Decision
from experiments.registry.registry import ModelInfo
from seg.data.audit.finding import counted
from seg.data.manifest import Manifest
from seg.training.image_score import score_names

_MOST_GROUPS = 10
_EVALUATION = "final/evaluation.json"
_MEANINGS = {
    "dice": "hard Dice per image at the training size",
    "dice_own_size": "the same at each image's own size; decides which version is champion",
    "dice_pooled": "all pixels of all images taken as one; large objects weigh more",
    "iou_50": "share of images with an IoU of at least 0.5",
    "dice_positive": "Dice over the images that have foreground",
    "false_positive_rate": "share of the images without foreground in which some was predicted",
}

_BASELINES = {
    "all_background": "an empty mask for every image",
    "best_constant": "one and the same mask for every image",
    "nearest_image": "copying the mask of the most similar training image",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card is about.

    Attributes:
        version: the registered model.
        decision: whether it became champion.
        evaluation: content of evaluation.json; `folder` holds it, per_image.csv and panels.
        manifest: the dataset.
        licences: those of the data, as the export states them.
        audit: content of audit.json; None where there is none.
        config: the training's settings.
        command: that made the model.
        versions: of the libraries and of this project, by name.
        study_run: id of the study's run; the version has the trial's.
    """

    version: ModelInfo
    decision: Decision
    evaluation: Mapping[str, Any]
    folder: Path
    manifest: Manifest
    licences: Sequence[str]
    audit: Mapping[str, Any] | None
    config: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    study_run: str


def build_card(subject: Subject, curves: Path) -> Card:
    """The whole card; `curves` is the folder of threshold_curve.png and calibration.png."""
    evaluation, manifest = subject.evaluation, subject.manifest
    scores, baselines = evaluation["scores"], evaluation["baselines"]
    best = max(baselines, key=lambda name: baselines[name])
    dice = scores["dice"]
    verdict = (
        f"Dice {_interval(dice)} on {counted(evaluation['examples'], 'image')} it was not trained or tuned on. "
        f"Without learning anything, {_BASELINES.get(best, best)} scores {baselines[best]:.3f}."
    )
    severity = "info" if dice["low"] > baselines[best] else "warning" if dice["mean"] > baselines[best] else "error"
    facts = (
        ("trained on", f"{manifest.name}, {counted(manifest.splits['train'].examples, 'image')}"),
        ("finds", _foreground(manifest)),
        ("image size", f"{manifest.image_size} × {manifest.image_size}"),
        ("threshold", _threshold(evaluation)),
        ("licence of the data", "; ".join(subject.licences) or "not stated"),
        ("champion", "yes" if subject.decision.promoted else "no"),
    )
    return Card(
        title=f"{subject.version.name}, version {subject.version.version}",
        verdict=verdict,
        severity=severity,
        facts=facts,
        sections=tuple(_sections(subject, curves)),
        footer=f"Artifacts are those of MLflow run {subject.version.run_id}, unless another is named.",
    )


def _sections(subject: Subject, curves: Path) -> Iterator[Section]:
    evaluation = subject.evaluation
    yield _use(subject.manifest)
    yield _scores(evaluation, subject.manifest.classes)
    yield _sizes(evaluation)
    if evaluation["by_group"]:
        yield _groups(evaluation)
    yield _curves(evaluation, curves)
    yield _failures(subject)
    yield _data(subject)
    yield _findings(subject.audit)
    yield _speed(evaluation)
    yield _decision(subject.decision)
    yield from _making(subject)


def _use(manifest: Manifest) -> Section:
    return Section(
        title="Intended use and limits",
        paragraphs=(
            f"Marks the pixels of {_foreground(manifest)} in images like those of the dataset {manifest.name}, for "
            "research, for pre-annotation that a person corrects, and for comparison with other models.",
        ),
        points=(
            "Not a medical device: not tested, and not to be used, for diagnosis, treatment or any decision about a "
            "person without a qualified person's own judgement.",
            "The scores hold for images from the same source. Another camera, scanner, site or population needs an "
            "evaluation of its own.",
            "The intervals cover the choice of test images. They do not cover the choice of the seed that trained the "
            "model, nor errors in the annotations.",
            "One mask for all foreground categories: it neither tells them apart nor separates objects that touch."
            if len(manifest.classes) == 1
            else "One class per pixel: where objects of several classes overlap, the smaller one counts. It does not "
            "separate objects of a class that touch.",
        ),
        severity="warning",
    )


def _scores(evaluation: Mapping[str, Any], classes: Sequence[str]) -> Section:
    meanings = _MEANINGS | {
        score: f"Dice of {name} over the images in which it is there or predicted"
        for score, name in zip(score_names(classes), classes, strict=False)  # of one class there is none
    }
    rows = [(name, _interval(interval), meanings.get(name, "")) for name, interval in evaluation["scores"].items()]
    rows += [
        (name, f"{score:.3f}", f"for comparison: Dice of {_BASELINES.get(name, name)}")
        for name, score in sorted(evaluation["baselines"].items(), key=lambda pair: -pair[1])
    ]
    counts = f"{counted(evaluation['examples'], 'image')} of {evaluation['split']}, {evaluation['empty']} of them empty"
    return Section(
        title="Scores",
        source=f"{_EVALUATION} → scores, baselines",
        paragraphs=(f"{counts}. Means with 95 % bootstrap intervals; the protocol is docs/protocol.md.",),
        table=Table(columns=("score", "value", "meaning"), rows=tuple(rows), words=("meaning",)),
    )


def _sizes(evaluation: Mapping[str, Any]) -> Section:
    rows = tuple(
        (
            part["name"],
            f"{part['smallest']:.2%} to {part['largest']:.2%}",
            str(part["images"]),
            _interval(part["dice_own_size"]),
        )
        for part in evaluation["by_size"]
    )
    return Section(
        title="By size",
        source=f"{_EVALUATION} → by_size",
        paragraphs=("Images with foreground in thirds, by the share of the image that it fills.",),
        table=Table(columns=("size", "share of the image", "images", "Dice at own size"), rows=rows),
    )


def _groups(evaluation: Mapping[str, Any]) -> Section:
    parts = evaluation["by_group"]
    shown = parts[:_MOST_GROUPS]
    told = f"The {len(shown)} lowest of {len(parts)} groups." if len(shown) < len(parts) else "Lowest first."
    rows = tuple((part["name"], str(part["images"]), f"{part['dice_own_size']['mean']:.3f}") for part in shown)
    return Section(
        title="By group",
        source=f"{_EVALUATION} → by_group",
        paragraphs=(f"{told} Intervals everywhere on this card draw whole groups.",),
        table=Table(columns=("group", "images", "Dice at own size"), rows=rows),
    )


def _curves(evaluation: Mapping[str, Any], curves: Path) -> Section:
    error = evaluation["calibration"]["expected_error"]
    calibrated = (
        f"Expected calibration error {error:.3f}: the mean distance of probability and truth, over pixels. Above "
        "the diagonal foreground is more frequent there than predicted; below it, less."
    )
    reliability = _picture(
        curves, "calibration", "Share of pixels that are foreground over their predicted probability."
    )
    if evaluation["threshold"] is None:
        return Section(
            title="Calibration",
            source=f"{_EVALUATION} → calibration",
            paragraphs=("The class with the highest probability wins: there is no threshold.", calibrated),
            pictures=(reliability,),
        )
    chosen = "tuned on validation, then fixed" if "val" in evaluation["threshold_curve"] else "given, not tuned here"
    return Section(
        title="Threshold and calibration",
        source=f"{_EVALUATION} → threshold, threshold_curve, calibration",
        paragraphs=(
            f"Foreground is where the probability is at least {evaluation['threshold']:.2f}: {chosen}. The curve of "
            f"{evaluation['split']} is shown to be read; it chose nothing.",
            calibrated,
        ),
        pictures=(
            _picture(curves, "threshold_curve", "Mean Dice per image, at the training size, over the threshold."),
            reliability,
        ),
    )


def _failures(subject: Subject) -> Section:
    with (subject.folder / "per_image.csv").open(encoding="utf-8", newline="") as lines:
        worst = sorted(csv.DictReader(lines), key=lambda row: np.float32(row["dice"]))  # as the panels
    panels = sorted((subject.folder / "panels").glob("worst_*.png"))
    pictures = tuple(
        Picture(name=panel.name, caption=f"{row['file_name']}: Dice {float(row['dice']):.3f}", file=panel)
        for panel, row in zip(panels, worst, strict=False)
    )
    zero = sum(float(row["dice"]) == 0 for row in worst)
    return Section(
        title="Where it fails",
        source="final/panels/worst_*.png, final/per_image.csv → dice",
        paragraphs=(
            f"The images with the lowest Dice, whatever they show; {zero} of {len(worst)} score 0. From left to right: "
            "image, truth, prediction, difference.",
        ),
        pictures=pictures,
    )


def _data(subject: Subject) -> Section:
    manifest = subject.manifest
    rows = tuple(
        (name, f"{split.examples:,}", f"{split.empty:,}", f"{split.foreground:.2%}", split.key)
        for name, split in manifest.splits.items()
    )
    return Section(
        title="Data",
        source="run input and tags → dataset_key, split",
        paragraphs=(
            f"Dataset {manifest.name}, key {manifest.key}, split {manifest.split}. "
            f"Left out in conversion, or noted: {counted(len(manifest.left_out), 'problem')}. "
            f"Licence of the data: {'; '.join(subject.licences) or 'not stated in the export'}.",
        ),
        table=Table(
            columns=("split", "images", "without foreground", "foreground pixels", "key"), rows=rows, words=("key",)
        ),
    )


def _findings(audit: Mapping[str, Any] | None) -> Section:
    if audit is None:
        return Section(title="Audit of the data", paragraphs=("The data was not audited.",), severity="warning")
    found = [entry for entry in audit["findings"] if entry["severity"] != "info"]
    worst = "error" if any(entry["severity"] == "error" for entry in found) else "warning" if found else "info"
    return Section(
        title="Audit of the data",
        source="the study's run: audit/audit.json → findings",
        paragraphs=("What was found that concerns trust in these scores:" if found else "Nothing to object.",),
        points=tuple(f"{entry['severity']}: {entry['title']}. {entry['meaning']}" for entry in found),
        severity=worst,
    )


def _speed(evaluation: Mapping[str, Any]) -> Section:
    speed = evaluation["speed"]
    facts = (
        ("machine", str(speed["machine"])),
        (f"in batches of {speed['batch_size']}", f"{speed['images_per_second']:.1f} images per second"),
        ("one image alone", f"{speed['latency_ms']:.1f} ms"),
    )
    return Section(
        title="Speed",
        source=f"{_EVALUATION} → speed",
        paragraphs=("From the resized image to its logits; reading files and resizing are not in it.",),
        facts=facts,
    )


def _decision(decision: Decision) -> Section:
    verdict = "Champion" if decision.promoted else "Not champion"
    return Section(
        title="Promotion",
        source="tags of the version → promotion, promotion_reason",
        paragraphs=(f"{verdict}: {decision.reason}.",),
    )


def _making(subject: Subject) -> Iterator[Section]:
    yield Section(
        title="How to make it again",
        source="params of the run",
        code=subject.command,
        facts=tuple((name, str(value)) for name, value in subject.config.items()),
    )
    runs = (("run of the model", subject.version.run_id), ("run of the study", subject.study_run))
    yield Section(
        title="Versions",
        source="tags of the run → git_commit",
        facts=(*subject.versions.items(), *runs),
    )


def _threshold(evaluation: Mapping[str, Any]) -> str:
    return "none: the highest class" if evaluation["threshold"] is None else f"{evaluation['threshold']:.2f}"


def _foreground(manifest: Manifest) -> str:
    """The classes, or the categories, that the model finds; those that nothing has are no use to name."""
    if len(manifest.classes) > 1:
        return ", ".join(manifest.classes)
    names = [str(entry["name"]) for entry in manifest.categories if entry["used"] and entry["annotations"]]
    return ", ".join(names) or "nothing"


def _picture(folder: Path, name: str, caption: str) -> Picture:
    return Picture(name=f"{name}.png", caption=caption, file=folder / f"{name}.png", wide=False)


def _interval(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
