"""The rules that single fields of an annotation file must keep, whatever JSON stands in their place.

Each function returns the field of an entry as it may be used, or raises `BrokenRule` with the rule's name.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seg.data.images import MAX_PIXELS, MAX_SIDE
from seg.data.segmentation import BrokenRule, shown

MAX_ID = 2**63 - 1  # ids go on into JSON and tables
_CONTROL = re.compile(r"[\x00-\x1f]")
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


def required(entry: Any, key: str) -> Any:
    """The value under a key of what should be a JSON object."""
    if not isinstance(entry, dict):
        raise BrokenRule("entry_type", f"an entry must be a JSON object, got {shown(entry)}")
    if key not in entry:
        raise BrokenRule("missing_key", f"'{key}' is missing")
    return entry[key]


@contextmanager
def placed(kind: str, index: int, identity: int) -> Iterator[None]:
    """Names an entry that broke a rule by its list, position and id, where it may have no name of its own."""
    try:
        yield
    except BrokenRule as broken:
        raise BrokenRule(broken.rule, f"{kind}[{index}], id {identity}: {broken.message}") from None


def checked_integer(value: Any, key: str) -> int:
    """A value that must be an integer; `key` names it in the message."""
    if type(value) is not int or abs(value) > MAX_ID:
        raise BrokenRule(f"{key}_type", f"{key} must be an integer of at most 64 bits, got {shown(value)}")
    return value


def checked_id(entry: Any, kind: str, index: int) -> int:
    """The id of an entry, which is named by its list and position: without its id nothing else names it."""
    try:
        return checked_integer(required(entry, "id"), "id")
    except BrokenRule as broken:
        raise BrokenRule(broken.rule, f"{kind}[{index}]: {broken.message}") from None


def checked_text(entry: dict[str, Any], key: str) -> str:
    """A text that is not empty and can be written to a file."""
    value = required(entry, key)
    if not isinstance(value, str) or not value:
        raise BrokenRule(f"{key}_type", f"{key} must be a text, got {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BrokenRule(f"{key}_type", f"{key} must be valid Unicode, got {shown(value)}") from None
    return value


def checked_size(entry: dict[str, Any]) -> tuple[int, int]:
    """Height and width of an image, in pixels."""
    height, width = required(entry, "height"), required(entry, "width")
    for key, side in (("height", height), ("width", width)):
        if type(side) is not int:
            raise BrokenRule("size_type", f"{key} must be an integer, got {shown(side)}")
        if not 1 <= side <= MAX_SIDE:
            raise BrokenRule("size_range", f"{key} must lie in 1 to {MAX_SIDE}, got {shown(side)}")
    if height * width > MAX_PIXELS:
        raise BrokenRule("size_range", f"an image must have at most {MAX_PIXELS} pixels, got {width}×{height}")
    return height, width


def checked_file_name(entry: dict[str, Any]) -> str:
    """A file name that, judged by its text alone, stays below the image folder; `seg.data.files` follows the links."""
    name = checked_text(entry, "file_name")
    if _CONTROL.search(name):
        raise BrokenRule("file_name_control", f"file_name must not hold control characters, got {shown(name)}")
    if _ABSOLUTE.match(name):
        raise BrokenRule("file_name_absolute", f"file_name must be relative to the image folder, got {shown(name)}")
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        raise BrokenRule("file_name_climbs", f"file_name must not leave the image folder, got {shown(name)}")
    if all(part in ("", ".") for part in parts):
        raise BrokenRule("file_name_type", f"file_name must name a file, got {shown(name)}")
    return name
