"""What accuracy costs, and what the study took: every trial with its size, speed and time."""

from collections import Counter

from experiments.command_line.progress import duration, short
from experiments.reports.plots import trade_off
from experiments.storage.stored_study import TrialRow
from experiments.studies.comparison import front, varied
from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import drawing, note, section, sortable, words
from seg.page import Html

_MISSING = "–"
_COSTS = ("parameters", "multiply-adds", "ms", "images/s")


def trade(record: StudyRecord) -> Html:
    """Dice against latency and multiply-adds, the trials that nothing beats, and which one was registered and why."""
    title = "What accuracy costs"
    figure = trade_off(record.rows, record.study.selection)
    if figure is None:
        missing = "Fewer than two finished trials have a known cost."
        return section("costs", title, *_registered(record), note(missing))
    unbeaten = (
        f"trial {row.number} ({row.val_dice:.3f}, {each.latency_ms:.1f} ms)" for row, each in front(record.rows)
    )
    told = (
        "A point is a trial, the line the front: the trials that no other one beats in Dice and cost together. By "
        f"latency, from the fastest: {', '.join(unbeaten)}."
    )
    return section(
        "costs",
        title,
        *_registered(record),
        words(told),
        drawing(figure, "Validation Dice of every trial against its latency and its multiply-adds, with the front"),
        note(
            "Latency is the median for one image alone on the machine that trained, and trials side by side slow each "
            "other; multiply-adds are counted from the layers and the same everywhere."
        ),
    )


def _registered(record: StudyRecord) -> list[Html]:
    selection = record.study.selection
    if selection is None:
        return []
    return [words(f"Registered: trial {selection.trial} (select={selection.rule}), because {selection.because}.")]


def cost(record: StudyRecord) -> Html:
    """All trials, by number."""
    rows = record.study.rows
    if not rows:
        return section("trials", "Every trial", note("The study has no trial."))
    names = varied(rows)
    seeds = ["seed"] if len({row.config.seed for row in rows if row.config}) > 1 else []
    columns = ["trial", *names, *seeds, "state", "val_dice", "epochs", *_COSTS, "time"]
    failed = any(row.reason for row in rows)
    table = sortable(columns + ["reason"] * failed, [_cells(row, names + seeds, failed) for row in rows])
    states = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in rows).items())
    total = duration(sum(row.seconds or 0 for row in rows))
    parts = [words(f"{states}; {total} of training in total, trials side by side counted each."), table]
    if any(row.state in ("finished", "pruned") and row.cost is None for row in rows):
        parts.append(note(f"{_MISSING}: trials of an older version, whose cost was not measured."))
    return section("trials", "Every trial", *parts)


def _cells(row: TrialRow, names: list[str], reasons: bool) -> list[str | tuple[str, float]]:
    found = row.cost
    options = [_option(None if row.config is None else getattr(row.config, name)) for name in names]
    numbers = [
        _number(row.val_dice, ".3f"),
        _number(len(row.curve) or None, ","),
        _number(found.parameters if found else None, ","),
        (short(found.multiply_adds), found.multiply_adds) if found else _number(None, ""),
        _number(found.latency_ms if found else None, ".1f"),
        _number(found.images_per_second if found else None, ".1f"),
        (duration(row.seconds), row.seconds) if row.seconds is not None else _number(None, ""),
    ]
    return [_number(row.number, "d"), *options, row.state, *numbers, *([row.reason] if reasons else [])]


def _option(value: object) -> str | tuple[str, float]:
    if isinstance(value, int | float):
        return f"{value:.3g}" if isinstance(value, float) else str(value), value
    return _MISSING if value is None else str(value)


def _number(value: float | None, form: str) -> tuple[str, float]:
    """Missing ones sort first."""
    return (_MISSING, -1.0) if value is None else (format(value, form), value)
