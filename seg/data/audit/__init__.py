"""The audit: what is wrong with a dataset, found without a model."""

from collections.abc import Iterator
from pathlib import Path

from seg.data.audit.bookkeeping import bookkeeping
from seg.data.audit.context import Context
from seg.data.audit.finding import SEVERITIES, Finding
from seg.data.audit.images import images
from seg.data.audit.labels import labels
from seg.data.audit.leakage import leakage
from seg.data.audit.numbers import numbers
from seg.data.manifest import Manifest

CHECKS = (leakage, labels, bookkeeping, images, numbers)


def audit(
    data: Path,
    manifest: Manifest,
    *,
    group_pattern: str = "",
    group_column: str = "",
    additional: Path | None = None,
) -> list[Finding]:
    """Checks a converted dataset beside the export that it comes from.

    Args:
        data: folder of the export.
        manifest: of the dataset converted from it.
        group_pattern, group_column: as in `convert`; what names the groups, whatever the split.
        additional: folder of the set of corrections that was converted with it.

    Returns:
        The findings, errors first.

    Raises:
        UserError: if the export cannot be read, or no image names its group there.
    """
    context = Context(data, manifest, group_pattern=group_pattern, group_column=group_column, additional=additional)
    return sorted(_findings(context), key=lambda finding: SEVERITIES.index(finding.severity))


def _findings(context: Context) -> Iterator[Finding]:
    for check in CHECKS:
        yield from check(context)
