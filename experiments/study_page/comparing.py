"""The arms beside each other, and every trial's way there."""

from experiments.reports import plots
from experiments.studies import comparison
from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import drawing, note, section, words
from seg.page import Html, table


def compared(record: StudyRecord) -> Html:
    """The table of the arms and the plot of their scores."""
    rows = record.rows
    if not comparison.finished(rows):
        return section("arms", "The arms compared", note("No trial finished."))
    head, *body = comparison.cells(rows)
    parts = [
        words(
            "Mean validation Dice of each arm's trials, at threshold 0.5; trials of one arm differ in their seed only."
        ),
        table(head, body, best=0),
        drawing(
            plots.dice_by_arm(rows, record.baselines("val")), "Validation Dice by loss and width, a point per trial"
        ),
    ]
    if record.manifest is None:
        parts.append(note("The dataset is no longer in the workspace: the scores of what learned nothing are missing."))
    importance = plots.parameter_importance(rows) if record.study.sampler == "tpe" else None
    if importance is not None:
        parts.append(drawing(importance, "Share of the variance of validation Dice that each option explains"))
    return section("arms", "The arms compared", *parts)


def curves(record: StudyRecord) -> Html:
    """val_dice of all trials over their epochs."""
    rows = record.study.rows
    silent = sum(not row.curve for row in rows)
    if silent == len(rows):
        return section("curves", "Learning curves", note("No trial reported an epoch."))
    best = record.winner.number if record.winner else None
    parts = [drawing(plots.curves_by_trial(rows, best), "Validation Dice of every trial by epoch")]
    if record.winner is not None:
        parts.insert(0, words(f"Validation Dice of every trial; the best one, trial {best}, is drawn in bold."))
    if silent:
        parts.append(note(f"{silent} of {len(rows)} trials reported no epoch and are not drawn."))
    return section("curves", "Learning curves", *parts)
