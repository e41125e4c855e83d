"""Under which licence an export's images are, as far as its COCO files say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seg.data.files import read_annotation_file
from seg.data.layout import find_splits
from seg.errors import UserError


def stated_licences(data: Path) -> tuple[str, ...]:
    """The licences of an export's images, `NAME (URL)`, each once; empty where its files state none.

    Only those that images refer to by their `license`, where any does: some tools list every licence they know.

    Raises:
        UserError: if the folder is no export.
    """
    found: dict[str, None] = {}
    for source in find_splits(data):
        try:
            content = json.loads(read_annotation_file(source.annotations, data).decode("utf-8-sig"))
        except (UserError, ValueError, RecursionError):  # conversion has judged the file; here it states nothing
            continue
        found |= dict.fromkeys(_stated(content))
    return tuple(found)


def _stated(content: Any) -> Iterator[str]:
    if not isinstance(content, dict):
        return
    licences = [entry for entry in _list(content, "licenses") if isinstance(entry, dict)]
    referred = [image.get("license") for image in _list(content, "images") if isinstance(image, dict)]
    used = [entry for entry in licences if entry.get("id") is not None and entry["id"] in referred]
    for entry in used or licences:
        name, url = (entry.get(key) if isinstance(entry.get(key), str) else "" for key in ("name", "url"))
        text = f"{name} ({url})" if name and url else name or url
        if text and text.strip():
            yield " ".join(text.split())


def _list(content: dict[str, Any], key: str) -> list[Any]:
    found = content.get(key)
    return found if isinstance(found, list) else []
