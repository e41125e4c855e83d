"""Audit a COCO export without a model: leakage between splits, wrong or missing labels, odd images.

    python -m experiments.audit --data FOLDER --image_size 256

The findings go to audit.html, one page that opens from a file, and to audit.json. An error means that scores on this
dataset are not to be trusted; the exit code is then 3. Broken images and annotations become findings (on_bad=skip).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from experiments.command_line import datasets, entry
from experiments.command_line.options import OPTIONS, parser
from seg.data.audit import audit
from seg.data.audit.finding import Finding
from seg.data.audit.report import summary, write_report
from seg.data.manifest import Manifest
from seg.errors import UserError

OVERRIDES = {
    "on_bad": replace(OPTIONS["on_bad"], default="skip"),
    "output": replace(OPTIONS["output"], default="audit", help="folder for audit.html and audit.json"),
}


def build_parser() -> argparse.ArgumentParser:
    return parser("audit", __doc__, [*datasets.OPTIONS, "image_size", "output", "allow_errors"], **OVERRIDES)


def report(values: argparse.Namespace, manifest: Manifest, folder: Path, stream: TextIO) -> list[Finding]:
    """Audits the dataset that the options name, writes the report and prints its summary.

    Raises:
        UserError: if the folder cannot be written, or no image names its group as the options say.
    """
    findings = audit(
        datasets.export_folder(values),
        manifest,
        group_pattern=values.group_pattern,
        group_column=values.group_column,
        additional=datasets.additional_folder(values),
    )
    try:
        page = write_report(findings, manifest, folder)
    except OSError as error:
        raise UserError(f"output must be a folder that can be written, got {folder} ({error}).") from None
    print(summary(findings), f"report: {page}", sep="\n", file=stream)
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    manifest = datasets.prepare(values, values.image_size)
    findings = report(values, manifest, Path(values.output), sys.stdout)
    failed = any(finding.severity == "error" for finding in findings)
    return entry.UNTRUSTWORTHY if failed and values.allow_errors == "no" else 0


if __name__ == "__main__":
    entry.run(main)
