"""Build a study's report again: one page that opens from a file, with the answer first and what it rests on below.

    python -m experiments.report --study unet

main, study and compare log the same page to the study's own run when they end. It is made from the storage and the
workspace; what these no longer hold, the page names. It goes to report.html in the output folder and to the study's
run, and what its arms say of each other to comparison.json beside it.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.command_line import entry
from experiments.command_line.code_version import git_commit
from experiments.command_line.options import OPTIONS, parser
from experiments.reports.arms_json import as_json, comparison_metrics
from experiments.reports.plots import trade_off
from experiments.storage.study_store import read_study
from experiments.studies.study_origin import StudyOrigin, command_line, origin_file
from experiments.study_page import study_page
from experiments.study_page.record import StudyRecord, gather
from experiments.tracking.tracker import Tracker
from seg.errors import UserError
from seg.page import write_whole

PAGE = "report.html"
COMPARISON = "comparison.json"
OUTPUT = replace(
    OPTIONS["output"],
    default="report",
    help="folder for report.html, comparison.json and the audit that the page links to",
)


def build_parser() -> argparse.ArgumentParser:
    return parser("report", __doc__, ["study", "storage", "workspace", "output"], output=OUTPUT)


def note_origin(
    verb: str, built: argparse.ArgumentParser, values: argparse.Namespace, run_id: str, tracking: str | None
) -> None:
    """Keeps with what a study is made, for its report, now and later.

    Args:
        verb: the entry point that makes it.
        built, values: its parser and what that parsed.
        run_id: of the study's MLflow run.
        tracking: MLFLOW_TRACKING_URI, if it is set.
    """
    origin = StudyOrigin.here(command_line(verb, built, values, tracking), git_commit())
    origin.save(origin_file(Path(values.workspace), values.study, run_id))


def publish_page(study: str, storage: str, workspace: Path, tracker: Tracker) -> StudyRecord:
    """Logs the page of a study, the comparison of its arms and the trade-off to its own run; returns their record."""
    record = gather(read_study(storage, study), workspace)
    run_id = record.study.run_id
    assert run_id is not None
    tracker.log_text(run_id, _whole(study_page(record)), PAGE)
    tracker.log_text(run_id, as_json(record), COMPARISON)
    figure = trade_off(record.rows, record.study.selection, f"Study {study}: what accuracy costs")
    if figure is not None:
        tracker.log_figure(run_id, figure, "trade_off.png")
    verdict = record.verdict
    tracker.log_tags(run_id, {"verdict": verdict.headline, "decided": verdict.decided})
    tracker.log_metrics(run_id, comparison_metrics(record))
    return record


def _whole(text: str) -> str:
    """The text as UTF-8 holds it: file names may have half characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    study = read_study(values.storage, values.study)
    tracker = Tracker(launch.tracking_uri, None)
    record = gather(study, Path(values.workspace))
    page = write(record, Path(values.output))
    print(f"report: {page}")
    if study.run_id is not None:
        tracker.log_text(study.run_id, page.read_text(encoding="utf-8"), PAGE)
        tracker.log_text(study.run_id, as_json(record), COMPARISON)
        print(f"browse: {tracker.where_to_browse(study.run_id)}")
    return 0


def write(record: StudyRecord, output: Path) -> Path:
    """Writes the page and the comparison, and the audit that the page links to beside them; returns the page's path.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / PAGE, study_page(record))
        write_whole(output / COMPARISON, as_json(record))
        if record.audit is not None:
            shutil.copytree(record.audit_folder, output / "audit", dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"output must be a folder that can be written, got {output} ({error}).") from None
    return output / PAGE


if __name__ == "__main__":
    entry.run(main)
