"""The audit's report: one HTML page that opens from a file without network, and the same as JSON."""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seg.data.audit.finding import SEVERITIES, Bars, Exhibit, Finding, Table, counted
from seg.data.manifest import Manifest

_STYLE = Path(__file__).with_name("report.css")
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
    lines = [f"{finding.severity:7}  {finding.title}" for finding in findings if finding.severity != "info"]
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
    title = escape(manifest.name)
    return "".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Audit of {title}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
            f'<header><p class="kind">Dataset audit</p><h1>{title}</h1>',
            f'<p class="verdict {worst}">{escape(verdict(findings))}</p>',
            f"<dl>{''.join(_facts(manifest))}</dl></header>",
            f'<nav aria-label="Findings"><ol>{"".join(_contents(findings))}</ol></nav>',
            *(_section(number, finding) for number, finding in enumerate(findings, 1)),
            f"<footer>Dataset key {escape(manifest.key)}. Computed from the files alone, without a model.</footer>",
            "</main></body></html>\n",
        ]
    )


def _severities(findings: Sequence[Finding]) -> dict[str, int]:
    counts = Counter(finding.severity for finding in findings)
    return {severity: counts[severity] for severity in SEVERITIES}


def _facts(manifest: Manifest) -> Iterator[str]:
    facts = {name: counted(split.examples, "image") for name, split in manifest.splits.items()}
    facts |= {"split": manifest.split, "image size": f"{manifest.image_size} × {manifest.image_size}"}
    facts["foreground"] = ", ".join(str(entry["name"]) for entry in manifest.categories if entry["used"]) or "nothing"
    for name, value in facts.items():
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _contents(findings: Sequence[Finding]) -> Iterator[str]:
    for number, finding in enumerate(findings, 1):
        yield (
            f'<li><a href="#finding-{number}">{_mark(finding)}<span>{escape(finding.title)}</span>'
            f"<b>{finding.count:,}</b></a></li>"
        )


def _mark(finding: Finding) -> str:
    return f'<i class="mark {finding.severity}" title="{finding.severity}">{_MARKS[finding.severity]}</i>'


def _section(number: int, finding: Finding) -> str:
    parts = [
        f'<section id="finding-{number}" class="{finding.severity}">',
        f"<h2>{_mark(finding)}<span>{escape(finding.title)}</span></h2>",
        f'<p class="rule">{finding.severity} · <code>{escape(finding.rule)}</code> · count {finding.count:,}</p>',
        f'<div class="words"><p><b>What it means</b>{escape(finding.meaning)}</p>',
        f"<p><b>What to do</b>{escape(finding.remedy)}</p></div>",
    ]
    if finding.bars:
        parts.append(_bars(finding.bars))
    if finding.table:
        parts.append(_table(finding.table))
    if finding.examples:
        parts.append(f'<div class="examples">{"".join(map(_exhibit, finding.examples))}</div>')
    return "".join([*parts, "</section>"])


def _bars(bars: Bars) -> str:
    lines = (
        f'<li><span class="label">{escape(label)}</span><span class="track">'
        f'<span style="width:{100 * min(1.0, max(0.0, value)):.1f}%"></span></span><b>{value:.3f}</b></li>'
        for label, value in bars.values
    )
    return f'<ul class="bars" aria-label="{escape(bars.unit)}">{"".join(lines)}</ul>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _exhibit(exhibit: Exhibit) -> str:
    caption = f"<figcaption>{escape(exhibit.caption)}</figcaption>"
    if exhibit.picture is None:
        return f'<figure class="words-only">{caption}</figure>'
    height, width = exhibit.picture.shape[:2]
    return (
        f'<figure style="max-width:{width}px"><img src="{_data_uri(exhibit.picture)}" width="{width}" '
        f'height="{height}" alt="{escape(exhibit.caption)}">{caption}</figure>'
    )


def _data_uri(picture: np.ndarray) -> str:
    """A drawing of few colours as PNG, anything else as JPEG, which is a fifth of the size."""
    bgr = np.ascontiguousarray(picture[..., ::-1])
    png = cv2.imencode(".png", bgr)[1].tobytes()
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    kind, data = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def write_report(findings: Sequence[Finding], manifest: Manifest, folder: Path) -> Path:
    """Writes audit.json and audit.html, each beside its place first, then renamed; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("audit.json", as_json(findings, manifest)), ("audit.html", as_html(findings, manifest))):
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8", errors="backslashreplace")
        partial.replace(folder / name)
    return folder / "audit.html"
