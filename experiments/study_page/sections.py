"""What every section of the page is made of."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.reports.plots import as_svg
from seg.page import Html, data_uri, element


def section(name: str, title: str, *parts: str) -> Html:
    """A section that a link to `#name` leads to."""
    return element("section", element("h2", element("span", title)), *parts, id=name)


def words(*parts: str) -> Html:
    """A paragraph of running text."""
    return element("p", *parts, class_="text")


def note(text: str) -> Html:
    """A remark, such as what is missing and why."""
    return element("p", text, class_="note")


def drawing(figure: Figure, alt: str) -> Html:
    """A figure as wide as the page; it scrolls within itself rather than become too small to read."""
    image = element("img", src=data_uri("image/svg+xml", as_svg(figure)), alt=alt)
    return element("div", image, class_="drawing")


def sortable(columns: Sequence[str], rows: Sequence[Sequence[str | tuple[str, float]]]) -> Html:
    """A table that a click on a head sorts, where scripts run; it scrolls within itself.

    Args:
        columns: heads.
        rows: cells: a text, or a text with the number that it sorts by.
    """
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = (element("tr", *(_cell(cell) for cell in row)) for row in rows)
    table = element("table", element("thead", head), element("tbody", *body), class_="sortable")
    return element("div", table, class_="table tall", tabindex=0)


def _cell(cell: str | tuple[str, float]) -> Html:
    if isinstance(cell, tuple):
        return element("td", cell[0], data_value=repr(float(cell[1])))
    return element("td", cell)
