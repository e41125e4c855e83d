"""What a study's own run shows when its trials are over: the comparison table and the plots."""

from experiments import comparison, plots
from experiments.study_result import StudyResult
from experiments.tracking import Tracker


def publish_study(result: StudyResult, tracker: Tracker) -> None:
    """Adds the table of all trials, the comparison of the arms and the plots to the study's run."""
    rows = result.rows
    tracker.log_text(result.run_id, comparison.as_csv(rows), "trials.csv")
    tracker.log_text(result.run_id, comparison.as_html(rows, f"Study {result.study}"), "comparison.html")
    figures = {
        "dice_by_arm.png": plots.dice_by_arm(rows, title=f"Study {result.study}: validation Dice by loss and width"),
        "history.png": plots.optimisation_history(rows, title=f"Study {result.study}: trial by trial"),
        "parameter_importance.png": plots.parameter_importance(rows, title="What made the difference"),
    }
    for name, figure in figures.items():
        if figure is not None:
            tracker.log_figure(result.run_id, figure, name)
    if result.best is not None and result.best.val_dice is not None:
        tracker.log_metrics(result.run_id, {"best_val_dice": result.best.val_dice})
