"""What the audit found in the data that the study trained on."""

from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import note, section, words
from seg.data.audit.finding import SEVERITIES
from seg.data.audit.report import mark
from seg.page import Html, element

AUDIT_PAGE = "audit/audit.html"  # beside the page, among the run's artifacts as in the output folder


def data(record: StudyRecord) -> Html:
    """The audit's findings, the worst first."""
    title = "What the audit found in the data"
    if record.audit is None:
        return section("audit", title, note("This dataset was not audited; run audit, or main, which does."))
    findings = sorted(record.audit["findings"], key=lambda found: _rank(found["severity"]))
    if not findings:
        return section("audit", title, words("Nothing."))
    lines = (
        element(
            "li",
            mark(found["severity"]) if found["severity"] in SEVERITIES else element("i", class_="mark"),
            element("span", found["title"]),
            element("b", f"{found['count']:,}"),
        )
        for found in findings
    )
    link = element("a", f"{AUDIT_PAGE}, beside this page", href=AUDIT_PAGE)
    told = words("Examples, what each finding means and what to do about it: ", link, ".")
    return section("audit", title, element("ul", *lines, class_="findings"), told)


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
