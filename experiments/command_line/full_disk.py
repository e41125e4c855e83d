"""Tells a full disk from other failures, whichever library met it."""

import errno
from collections.abc import Iterator

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# SQLite's own words, which SQLAlchemy, Optuna and MLflow pass on; the second is all that it says of a quota.
_WORDS = ("database or disk is full", "disk I/O error", "No space left on device", "Disk quota exceeded")


def no_room(error: BaseException) -> str | None:
    """What says, in an error or in what led to it, that a file could not grow; None if nothing does."""
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in _CODES:
            place = f": {each.filename}" if each.filename else ""
            return f"{each.strerror}{place}"
        for words in _WORDS:
            if words in str(each):
                return words
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
