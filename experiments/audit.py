"""Audit a COCO export without a model: leakage between splits, wrong or missing labels, odd images.

    python -m experiments.audit --data FOLDER --image_size 256

The findings go to audit.html, one page that opens from a file, and to audit.json. An error means that scores on this
dataset are not to be trusted; the exit code is then 3. Broken images and annotations become findings (on_bad=skip).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments import datasets, entry
from experiments.options import OPTIONS, parser
from seg.data.audit import audit
from seg.data.audit.report import summary, write_report
from seg.errors import UserError

OVERRIDES = {
    "on_bad": replace(OPTIONS["on_bad"], default="skip"),
    "output": replace(OPTIONS["output"], default="audit", help="folder for audit.html and audit.json"),
}


def build_parser() -> argparse.ArgumentParser:
    return parser("audit", __doc__, [*datasets.OPTIONS, "image_size", "output", "allow_errors"], **OVERRIDES)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    manifest = datasets.prepare(values, values.image_size)
    findings = audit(datasets.export_folder(values), manifest)
    try:
        page = write_report(findings, manifest, Path(values.output))
    except OSError as error:
        raise UserError(f"output must be a folder that can be written, got {values.output} ({error}).") from None
    print(summary(findings))
    print(f"report: {page}")
    failed = any(finding.severity == "error" for finding in findings)
    return entry.UNTRUSTWORTHY if failed and values.allow_errors == "no" else 0


if __name__ == "__main__":
    entry.run(main)
