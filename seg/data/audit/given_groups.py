"""Given groups: patients, videos or sites that the user names, with images on more than one side of the split."""

from collections import defaultdict
from collections.abc import Iterator

from seg.data.audit import pictures
from seg.data.audit.context import Context, Row
from seg.data.audit.finding import Exhibit, Finding, Table, counted
from seg.errors import UserError

_EXAMPLES = 4
_TABLE_ROWS = 20


def given_groups(context: Context) -> Iterator[Finding]:
    """Groups across splits, and images that name no group.

    Raises:
        UserError: if groups are asked for and no image names one.
    """
    option = "group_column" if context.group_column else "group_pattern"
    value = context.group_column or context.group_pattern
    if not value:
        return
    groups: dict[str, list[Row]] = defaultdict(list)
    without = []
    for file_name, row in context.by_file_name.items():
        group = context.groups.get(file_name)
        if group is None:
            without.append(row)
        else:
            groups[group].append(row)
    if not groups:
        raise UserError(f"{option} must name the group of the images, and '{value}' finds none in any; change it.")
    across = {group: rows for group, rows in sorted(groups.items()) if len({row.split for row in rows}) > 1}
    if across:
        yield _across(context, across, len(groups))
    if without:
        yield Finding(
            rule="images_without_group",
            severity="warning",
            count=len(without),
            title=f"{counted(len(without), 'image')} whose group '{value}' does not name",
            meaning="Whether they leak from one split into another cannot be told.",
            remedy=f"Complete the export, or change {option}.",
            examples=tuple(
                Exhibit(caption=row.example.file_name, picture=pictures.example(context, row))
                for row in without[:_EXAMPLES]
            ),
        )


def _across(context: Context, across: dict[str, list[Row]], total: int) -> Finding:
    splits = tuple(context.manifest.splits)
    return Finding(
        rule="groups_across_splits",
        severity="error",
        count=len(across),
        title=f"{len(across):,} of {counted(total, 'group')} with images in more than one split",
        meaning="Images of one group look alike in ways that have nothing to do with the task: the same patient, "
        "camera or site. A model that remembers the group scores on its images without having learned anything.",
        remedy="Convert with split=grouped or kfold and the same groups: nothing of a group is on two sides.",
        examples=tuple(_pair(context, group, rows) for group, rows in list(across.items())[:_EXAMPLES]),
        table=Table(
            columns=("group", *splits),
            rows=tuple(
                (group, *(f"{sum(row.split == split for row in rows):,}" for split in splits))
                for group, rows in list(across.items())[:_TABLE_ROWS]
            ),
        ),
    )


def _pair(context: Context, group: str, rows: list[Row]) -> Exhibit:
    first = rows[0]
    second = next(row for row in rows if row.split != first.split)
    return Exhibit(
        caption=f"group {group}: {first.example.file_name} beside {second.example.file_name}",
        picture=pictures.side_by_side(pictures.example(context, first), pictures.example(context, second)),
    )
