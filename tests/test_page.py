"""The page layer: whatever is no markup of ours is escaped, and a page runs and loads only what it brought."""

import base64
import hashlib
import html.parser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.page import Html, bars, element, facts, join, page, picture, table, write_whole

HOSTILE = "</td><script>alert('x')</script>&\" onload=\"x"


class Read(html.parser.HTMLParser):
    """What a browser makes of markup: its tags with their attributes, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "a < b ", element("b", "&")) == "<p>a &lt; b <b>&amp;</b></p>"
    assert join(["<i>", Html("<i>")]) == "&lt;i&gt;<i>"
    assert element("img", src='a"b', class_="x", data_value=1, alt=None) == (
        '<img src="a&quot;b" class="x" data-value="1">'
    )


@given(st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])))
def test_any_text_comes_out_as_it_went_in(text):
    found = Read(element("td", text, title=text))
    assert found.tags == [("td", {"title": text})]
    assert found.text == text


@pytest.mark.parametrize(
    "made",
    [
        table([HOSTILE], [[HOSTILE]], best=0),
        facts({HOSTILE: HOSTILE}),
        bars(HOSTILE, [(HOSTILE, 0.5)]),
        picture(np.zeros((4, 4, 3), np.uint8), HOSTILE),
        page(HOSTILE, [HOSTILE]),
    ],
)
def test_every_part_escapes(made):
    found = Read(made)
    assert "script" not in [tag for tag, _ in found.tags]
    assert all("onload" not in attributes for _, attributes in found.tags)


def test_bars_stay_within_their_track():
    assert [part in bars("", [("a", value)]) for value, part in ((-1, "0.0%"), (0.25, "25.0%"), (2, "100.0%"))] == [
        True
    ] * 3


def test_a_page_allows_its_own_script_only():
    script = "document.title = 'a';"
    found = Read(page("a", [], script=script))
    (policy,) = [attributes["content"] for tag, attributes in found.tags if "http-equiv" in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';")
    assert "script-src" not in page("a", [])


def test_a_drawing_is_png_and_a_photograph_jpeg():
    assert "data:image/png;base64," in picture(np.zeros((20, 30, 3), np.uint8), "")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    assert "data:image/jpeg;base64," in picture(noise, "")


def test_half_characters_are_written_readably(tmp_path):
    write_whole(tmp_path / "page.html", "a\udcffb")
    assert (tmp_path / "page.html").read_bytes() == b"a\\udcffb"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
