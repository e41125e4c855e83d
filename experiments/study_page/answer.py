"""The top of the page: the question, the answer, and how the best model does on images that it never saw."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.command_line.progress import duration
from experiments.studies.comparison import arms, varied
from experiments.study_page.record import StudyRecord
from seg.page import Html, element, facts
from seg.training.image_score import score_names

_NOUNS = {"filters": "width", "loss": "loss"}
_NETWORKS = {
    "unet": "a U-Net",
    "attention_unet": "an attention U-Net",
    "unet_plus_plus": "a U-Net++",
    "deeplabv3plus": "a DeepLabv3+",
}
_BASELINES = {
    "nearest_image": "nearest image copied",
    "best_constant": "best constant mask",
    "all_background": "nothing anywhere",
}


def answer(record: StudyRecord) -> Html:
    """The page's header."""
    verdict = record.verdict
    return element(
        "header",
        element("p", f"Study {record.study.study}", class_="kind"),
        element("h1", question(record)),
        element("p", verdict.headline, class_=f"verdict {'info' if verdict.decided else 'warning'}"),
        facts(_facts(record)),
        element(
            "div",
            element("div", *(element("p", text) for text in (*verdict.reasons, *_test(record))), class_="answer"),
            element("div", *_bars(record)),
            class_="top",
        ),
    )


def question(record: StudyRecord) -> str:
    """What the study was to find out."""
    names = varied(record.rows)
    dataset = record.study.dataset_name
    if not names:
        network = _NETWORKS[record.study.settings.get("architecture", "unet")]  # older studies do not say
        return f"How well does {network} segment {dataset}?"
    nouns = [
        f"which {_NOUNS.get(name, name.replace('_', ' '))}" for name in sorted(names, key=lambda name: name != "loss")
    ]
    asked = nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"
    return f"{asked.capitalize()} for {dataset}?"


def _facts(record: StudyRecord) -> dict[str, str]:
    rows, found = record.study.rows, {}
    if record.winner is not None and record.winner.val_dice is not None:
        names = [arm.name for arm in arms(record.rows) if record.winner.number in arm.trials_finished]
        found["best trial"] = f"{record.winner.number}: {names[0]}" if names else str(record.winner.number)
        found["its validation Dice"] = f"{record.winner.val_dice:.3f}"
    if record.evaluation and record.scored is not None:
        whose = "its" if record.scored == record.winner else f"trial {record.scored.number}'s"
        found[f"{whose} test Dice"] = f"{interval(record.evaluation['scores']['dice'])}"
        if (gap := record.optimism_gap) is not None:
            found["optimism gap"] = f"{gap:+.3f}"
    found["trials"] = f"{sum(row.state == 'finished' for row in rows)} of {len(rows)} finished"
    return found | {"training time": duration(sum(row.seconds or 0 for row in rows))}


def interval(score: Mapping[str, float]) -> str:
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _test(record: StudyRecord) -> Iterator[str]:
    """How the winner does on the test split, in words."""
    if record.winner is None:
        return
    if record.evaluation is None:
        yield "The best trial was not scored on the test split; main and compare do that, study does not."
        return
    assert record.scored is not None
    if record.scored != record.winner and record.scored == record.shown:
        assert record.study.selection is not None
        yield f"Trial {record.scored.number} was registered: {record.study.selection.because}."
    elif record.scored != record.winner:
        yield (
            f"The test split was used for trial {record.scored.number} and is not used again: the best trial is now "
            f"{record.winner.number}, which has no test score."
        )
    dice, examples = record.evaluation["scores"]["dice"], record.evaluation["examples"]
    yield (
        f"On {examples:,} test images, which no trial saw, trial {record.scored.number} has a Dice of "
        f"{dice['mean']:.3f} (95 % interval: {dice['low']:.3f} to {dice['high']:.3f}). The "
        "interval is about other images of the same kind, not about training again."
    )
    if classes := _by_class(record):
        yield f"By class, over the images in which it is there or predicted: {classes}."
    gap = record.optimism_gap
    if gap is not None:
        used = next((use.at for use in record.study.test_uses if use.trial == record.scored.number), None)
        when = f" The test split was used once for it, on {used[:10]} at {used[11:16]} UTC." if used else ""
        alike = "by the highest class as well" if record.evaluation["threshold"] is None else "at the same threshold"
        yield (
            f"On validation, {alike}, its Dice is {record.evaluation['validation_dice']:.3f}: {gap:+.3f} "
            f"is the optimism gap, what being chosen there flatters it by and what the two splits differ by.{when}"
        )
    nearest = record.evaluation["baselines"].get("nearest_image")
    if nearest is not None:
        yield _beside_copying(dice, nearest)


def _by_class(record: StudyRecord) -> str:
    """The Dice of each of several classes; empty of one."""
    if record.evaluation is None or record.manifest is None:
        return ""
    scores, classes = record.evaluation["scores"], record.manifest.classes
    named = zip(classes, score_names(classes), strict=False)  # of one class there is none
    return ", ".join(f"{name} {interval(scores[score])}" for name, score in named if score in scores)


def _beside_copying(dice: Mapping[str, float], nearest: float) -> str:
    copying = f"copying the mask of the training image that looks most alike, which scores {nearest:.3f}"
    if dice["mean"] <= nearest:
        return (
            f"That is not better than {copying}: so far the model is worth no more than a look-up. See what the audit "
            "says about images that are on both sides of the split, and train longer or wider."
        )
    if dice["low"] <= nearest:
        return f"That is a little better than {copying}, but the interval reaches down to it: the lead is not certain."
    return f"That is clearly better than {copying}."


def _bars(record: StudyRecord) -> Iterator[Html]:
    """The test score with its interval, above those of what learned nothing."""
    if record.evaluation is None:
        return
    dice = record.evaluation["scores"]["dice"]
    assert record.scored is not None
    scored = "best trial" if record.scored == record.winner else f"trial {record.scored.number}"
    lines = [_bar(scored, dice["mean"], dice)]
    for name, label in _BASELINES.items():
        if name in record.evaluation["baselines"]:
            lines.append(_bar(label, record.evaluation["baselines"][name], None))
    yield element("ul", *lines, class_="bars", aria_label="Dice on the test images")
    yield element("p", "Dice on the test images; the bracket is the 95 % interval.", class_="note")


def _bar(label: str, value: float, bounds: Mapping[str, Any] | None) -> Html:
    parts = [element("span", style=f"width:{value:.1%}")]
    if bounds:
        low, high = bounds["low"], bounds["high"]
        parts.append(element("i", class_="bracket", style=f"left:{low:.1%};width:{high - low:.1%}"))
    return element(
        "li",
        element("span", label, class_="label"),
        element("span", *parts, class_="track" if bounds else "track plain"),
        element("b", f"{value:.3f}"),
    )
