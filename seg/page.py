"""One HTML page in one file: elements that escape what they hold, pictures inside, one look for every page.

A page loads nothing: its Content-Security-Policy allows pictures within it, its own style, and the script it came with.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

_STYLE = Path(__file__).with_suffix(".css")
_VOID = ("img", "meta")
_JPEG_QUALITY = 88


class Html(str):
    """Text that is markup already; whatever is no `Html` is escaped where it enters a page."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: str | int | None) -> Html:
    """An element around its children.

    Args:
        tag: its name.
        children: text, which is escaped, or `Html`, which is not.
        attributes: by name, escaped; `_` stands for `-`, and a trailing one is dropped (`class_`). None: left out.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{words}>")
    return Html(f"<{tag}{words}>{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Parts side by side: text is escaped, `Html` is not."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def page(title: str, body: Iterable[str], style: str = "", script: str = "") -> Html:
    """A whole page.

    Args:
        title: of the browser's window.
        body: what stands in `main`.
        style: added to the look that all pages share.
        script: the only one that runs; an attribute or element that found its way in does not.
    """
    allowed = f" script-src 'sha256-{_sha256(script)}';" if script else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline';{allowed}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_STYLE.read_text(encoding="utf-8") + style)),
    )
    last = element("script", Html(script)) if script else Html()
    return Html(f"<!doctype html>\n{element('html', head, element('body', element('main', *body), last), lang='en')}\n")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def facts(values: Mapping[str, str]) -> Html:
    """Names with their values, in large letters."""
    return element("dl", *(element("div", element("dt", name), element("dd", text)) for name, text in values.items()))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> Html:
    """A table that scrolls sideways within itself where it is wider than the page.

    Args:
        columns: heads.
        rows: cells, each row as long as `columns`.
        best: number of the row to stress, if any.
    """
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = (
        element("tr", *(element("td", cell) for cell in row), class_="best" if number == best else None)
        for number, row in enumerate(rows)
    )
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="table")


def bars(unit: str, values: Iterable[tuple[str, float]]) -> Html:
    """Numbers in [0, 1] as bars."""
    lines = (
        element(
            "li",
            element("span", label, class_="label"),
            element("span", element("span", style=f"width:{_percent(value)}"), class_="track"),
            element("b", f"{value:.3f}"),
        )
        for label, value in values
    )
    return element("ul", *lines, class_="bars", aria_label=unit)


def _percent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.1f}%"


def picture(rgb: np.ndarray, alt: str) -> Html:
    """A picture, (height, width, 3) uint8 RGB, at its own size where there is room."""
    height, width = rgb.shape[:2]
    return element("img", src=_data_uri(rgb), width=width, height=height, alt=alt)


def _data_uri(rgb: np.ndarray) -> str:
    """A drawing of few colours as PNG, anything else as JPEG, which is a fifth of the size."""
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    png = cv2.imencode(".png", bgr)[1].tobytes()
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return data_uri("image/png", png) if len(png) <= len(jpeg) else data_uri("image/jpeg", jpeg)


def data_uri(kind: str, content: bytes) -> str:
    """A file inside an address; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def write_whole(path: Path, text: str) -> None:
    """Writes a text beside its place, then renames it; half characters, which file names may hold, become `\\udc…`."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
