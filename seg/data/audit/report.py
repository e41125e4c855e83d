"""The audit's report: one HTML page that opens from a file without network, and the same as JSON."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seg.data.audit.finding import SEVERITIES, Exhibit, Finding, counted
from seg.data.manifest import Manifest
from seg.errors import one_line
from seg.page import Html, bars, element, facts, page, picture, table, write_whole

_MARKS = {"error": "✕", "warning": "!", "info": "i"}


def as_json(findings: Sequence[Finding], manifest: Manifest) -> str:
    """The findings without their pictures, with the dataset's key, as JSON."""
    return json.dumps(
        {
            "dataset": manifest.name,
            "key": manifest.key,
            "split": manifest.split,
            "image_size": manifest.image_size,
            "severities": _severities(findings),
            "findings": [_plain(finding) for finding in findings],
        },
        indent=1,
    )


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "count": finding.count,
        "title": finding.title,
        "meaning": finding.meaning,
        "remedy": finding.remedy,
        "examples": [exhibit.caption for exhibit in finding.examples],
        "table": asdict(finding.table) if finding.table else None,
        "bars": asdict(finding.bars) if finding.bars else None,
    }


def summary(findings: Sequence[Finding]) -> str:
    """One line per error and warning, then the number of the other findings; for a terminal."""
    lines = [f"{finding.severity:7}  {one_line(finding.title)}" for finding in findings if finding.severity != "info"]
    lines.append(verdict(findings))
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence on the whole."""
    found = _severities(findings)
    told = ", ".join(
        counted(found[severity], noun)
        for severity, noun in (("error", "error"), ("warning", "warning"), ("info", "note"))
        if found[severity]
    )
    if found["error"]:
        return f"Scores on this dataset are not to be trusted yet: {told}."
    if found["warning"]:
        return f"Usable, with something to look at: {told}."
    return f"Nothing to object: {told or 'no finding'}."


def as_html(findings: Sequence[Finding], manifest: Manifest) -> str:
    """The page. Everything that comes from the dataset is escaped; pictures are inside it."""
    severities = _severities(findings)
    worst = next((severity for severity in SEVERITIES if severities[severity]), "info")
    return page(
        f"Audit of {manifest.name}",
        [
            element(
                "header",
                element("p", "Dataset audit", class_="kind"),
                element("h1", manifest.name),
                element("p", verdict(findings), class_=f"verdict {worst}"),
                facts(_facts(manifest)),
            ),
            element("nav", element("ol", *_contents(findings)), aria_label="Findings"),
            *(_section(number, finding) for number, finding in enumerate(findings, 1)),
            element("footer", f"Dataset key {manifest.key}. Computed from the files alone, without a model."),
        ],
    )


def _severities(findings: Sequence[Finding]) -> dict[str, int]:
    counts = Counter(finding.severity for finding in findings)
    return {severity: counts[severity] for severity in SEVERITIES}


def _facts(manifest: Manifest) -> dict[str, str]:
    facts = {name: counted(split.examples, "image") for name, split in manifest.splits.items()}
    facts |= {"split": manifest.split, "image size": f"{manifest.image_size} × {manifest.image_size}"}
    foreground = ", ".join(str(entry["name"]) for entry in manifest.categories if entry["used"])
    return facts | {"foreground": foreground or "nothing"}


def _contents(findings: Sequence[Finding]) -> Iterator[Html]:
    for number, finding in enumerate(findings, 1):
        count = element("b", f"{finding.count:,}")
        title = element("span", finding.title)
        yield element("li", element("a", mark(finding.severity), title, count, href=f"#finding-{number}"))


def mark(severity: str) -> Html:
    """The sign of a severity."""
    return element("i", _MARKS[severity], class_=f"mark {severity}", title=severity)


def _section(number: int, finding: Finding) -> Html:
    rule = (f"{finding.severity} · ", element("code", finding.rule), f" · count {finding.count:,}")
    parts = [
        element("h2", mark(finding.severity), element("span", finding.title)),
        element("p", *rule, class_="rule"),
        element(
            "div",
            element("p", element("b", "What it means"), finding.meaning),
            element("p", element("b", "What to do"), finding.remedy),
            class_="words",
        ),
    ]
    if finding.bars:
        parts.append(bars(finding.bars.unit, finding.bars.values))
    if finding.table:
        parts.append(table(finding.table.columns, finding.table.rows))
    if finding.examples:
        parts.append(element("div", *map(_exhibit, finding.examples), class_="examples"))
    return element("section", *parts, id=f"finding-{number}", class_=finding.severity)


def _exhibit(exhibit: Exhibit) -> Html:
    caption = element("figcaption", exhibit.caption)
    if exhibit.picture is None:
        return element("figure", caption, class_="words-only")
    width = exhibit.picture.shape[1]
    return element("figure", picture(exhibit.picture, exhibit.caption), caption, style=f"max-width:{width}px")


def write_report(findings: Sequence[Finding], manifest: Manifest, folder: Path) -> Path:
    """Writes audit.json and audit.html, each beside its place first, then renamed; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "audit.json", as_json(findings, manifest))
    write_whole(folder / "audit.html", as_html(findings, manifest))
    return folder / "audit.html"
