"""What a model card holds, before it becomes Markdown or HTML: sections of words, numbers and pictures."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a card.

    Attributes:
        name: of its file beside the card.
        caption: what it shows.
        file: where it lies now.
        wide: as wide as the page.
    """

    name: str
    caption: str
    file: Path
    wide: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers; every row is as long as `columns`. The first column holds words, and so do those named by `words`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a card.

    Attributes:
        title: its heading.
        source: the artifact, and the key in it, that its numbers come from.
        paragraphs, points: its words; points become a list.
        table, facts, pictures: its numbers, as a table or as a few (name, value), and its pictures.
        code: a command.
        severity: `error`, `warning` or `info`, the colour of its edge.
    """

    title: str
    source: str = ""
    paragraphs: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    table: Table | None = None
    facts: tuple[tuple[str, str], ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: str = ""
    severity: str = "info"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A model card.

    Attributes:
        title: model and version.
        verdict: the score in one sentence; `severity` is its colour.
        facts: the few things to see first, (name, value).
        sections: the rest.
        footer: the last line.
    """

    title: str
    verdict: str
    severity: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    footer: str
