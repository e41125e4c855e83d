"""The group of an image as a column of its entry in the annotation file names it."""

from typing import Any

from seg.data.segmentation import BrokenRule, printable, shown

MAX_LENGTH = 200  # characters
MISSING = "group_column_missing"
_SHOWN = 12  # keys in a message


def group_in_column(entry: dict[str, Any], column: str) -> str:
    """The group's name.

    Args:
        entry: of the image.
        column: its key; one that holds dots and is no key itself leads into objects: `extra.patient`.

    Raises:
        BrokenRule: if the entry has no such key, or its value is neither an integer nor a text of 1 to 200 characters.
    """
    value: Any = entry
    for key in [column] if column in entry else column.split("."):
        if not isinstance(value, dict) or key not in value:
            raise BrokenRule(
                MISSING, f"every image must name its group in '{column}', which is missing; it has {_columns(entry)}"
            )
        value = value[key]
    if type(value) is int and abs(value) < 10**MAX_LENGTH:
        return str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_LENGTH or not _is_unicode(value):
        raise BrokenRule(
            "group_column_type",
            f"'{column}' must be an integer or a text of 1 to {MAX_LENGTH} characters, got {shown(value)}",
        )
    return value


def _columns(entry: dict[str, Any]) -> str:
    """The keys that an entry has, those of objects in it with their path."""
    keys = []
    for key, value in entry.items():
        keys += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(printable(key, 40) for key in keys[:_SHOWN]) + more


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
