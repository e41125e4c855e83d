"""Which categories are classes of their own in the masks.

binary       every used category is foreground: one class
all          each used category that has annotations is a class
NAME,NAME    these used categories are classes, in this order; the others are background
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from seg.data.coco import Category
from seg.data.manifest import BINARY_CLASSES, IGNORE
from seg.data.segmentation import listed, shown
from seg.errors import UserError

BINARY, ALL = "binary", "all"
MOST = IGNORE - 1  # what a mask of one byte has room for, beside background and ignored


@dataclass(frozen=True)
class Classes:
    """The classes of an export.

    Attributes:
        names: class `k`, counted from 1, is that of number `k - 1`.
        setting: what the dataset's key has of them: the names with commas; `binary` where that was asked for.
        labels: the class of each foreground category, by the category's name.
    """

    names: tuple[str, ...]
    setting: str
    labels: Mapping[str, int]


def find_classes(categories: Iterable[Category], used: set[str], annotated: set[str], wanted: str) -> Classes:
    """Resolves the option `classes`.

    Args:
        categories: of the export.
        used: names of the categories that `categories` leaves, see `seg.data.masks.used_categories`.
        annotated: names of those that have annotations.
        wanted: `binary`, `all`, or names separated by commas.

    Raises:
        UserError: if a name is none of the used categories, is there twice, has a comma, or there are too many or none.
    """
    if wanted == BINARY:
        return Classes(BINARY_CLASSES, BINARY, dict.fromkeys(used, 1))
    if wanted == ALL:
        ordered = sorted((category for category in categories if category.name in used & annotated), key=_by_id)
        names = tuple(dict.fromkeys(category.name.strip() for category in ordered))
    else:
        names = tuple(name.strip() for name in wanted.split(","))
    known = {name.strip() for name in used}
    for name in names:
        if name not in known:
            raise UserError(
                f"classes must be {BINARY}, {ALL} or names of the used categories, got {shown(name)}; "
                f"known: {listed(known)}."
            )
        if "," in name:
            raise UserError(f"the name of a class must be without commas, got {shown(name)}; rename the category.")
        if names.count(name) > 1:
            raise UserError(f"classes must name each category once, got {shown(name)} twice; drop one.")
    if not names:
        raise UserError(f"classes={ALL} needs a used category with annotations, and none has any; use {BINARY}.")
    if len(names) > MOST:
        raise UserError(f"classes must be at most {MOST}, got {len(names)}; name those that matter.")
    places = {name: place for place, name in enumerate(names, start=1)}
    labels = {name: places[name.strip()] for name in used if name.strip() in places}
    return Classes(names, ",".join(names), labels)


def _by_id(category: Category) -> tuple[int, str]:
    return category.id, category.name
