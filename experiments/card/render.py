"""A card as Markdown and as one HTML page that opens from a file without network."""

import base64
import re
import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import seg.page
from experiments.card.content import Card

_HERE = Path(__file__).parent


def as_html(card: Card) -> str:
    """The page, with its pictures inside. Jinja escapes all that the card says."""
    style = Path(seg.page.__file__).with_name("page.css").read_text(encoding="utf-8")  # the look of all our pages
    style += (_HERE / "card.css").read_text(encoding="utf-8")
    return _environment(escapes=True).get_template("card.html.j2").render(card=card, style=style)


def as_markdown(card: Card) -> str:
    """The same as Markdown; pictures are files beside it."""
    text = _environment(escapes=False).get_template("card.md.j2").render(card=card)
    return re.sub(r"\n{3,}", "\n\n", text)


def write_card(card: Card, folder: Path) -> None:
    """Leaves card.md, card.html and the pictures in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in card.sections:
        for picture in section.pictures:
            if picture.file.parent != folder:
                shutil.copyfile(picture.file, folder / picture.name)
    for name, content in (("card.md", as_markdown(card)), ("card.html", as_html(card))):
        (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace")


def _environment(escapes: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=escapes, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"md": _markdown, "oneline": _oneline, "data_uri": _data_uri}
    return environment


def _markdown(text: str) -> str:
    """Text that Markdown, and the HTML that it may hold, leaves as it is."""
    escaped = re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", _oneline(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _oneline(text: str) -> str:
    return " ".join(text.split())


def _data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
