"""What a study's own run shows when its trials are over: the comparison table and the plots."""

from experiments.reports import plots
from experiments.studies import comparison
from experiments.studies.study_result import StudyResult
from experiments.tracking.tracker import Tracker
from seg.data.baselines import baselines
from seg.data.manifest import Manifest


def publish_study(result: StudyResult, manifest: Manifest, tracker: Tracker) -> None:
    """Adds the table of all trials, the comparison of the arms as a note, and the plots to the study's run."""
    rows = result.rows
    title = f"Study {result.study}"
    tracker.log_text(result.run_id, comparison.as_csv(rows), "trials.csv")
    figures = {
        "dice_by_arm.png": plots.dice_by_arm(
            rows, baselines(manifest, "val"), f"{title}: validation Dice by loss and width"
        ),
        "history.png": plots.optimisation_history(rows, f"{title}: trial by trial"),
        "parameter_importance.png": plots.parameter_importance(rows, f"{title}: what made the difference"),
    }
    for name, figure in figures.items():
        if figure is not None:
            tracker.log_figure(result.run_id, figure, name)
    if result.best is not None and result.best.val_dice is not None:
        tracker.log_metrics(result.run_id, {"best_val_dice": result.best.val_dice})
    tracker.extend_note(result.run_id, f"### Arms, best first\n\n{comparison.as_markdown(rows)}")
