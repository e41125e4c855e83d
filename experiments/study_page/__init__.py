"""One page per study: the question and the answer first, then what they rest on; one file, no network."""

from pathlib import Path

from experiments.study_page.answer import answer, question
from experiments.study_page.comparing import compared, curves
from experiments.study_page.cost import cost, trade
from experiments.study_page.data import data
from experiments.study_page.pairs import pairs
from experiments.study_page.per_image import per_image
from experiments.study_page.pictures import disagreements, overlays
from experiments.study_page.provenance import provenance
from experiments.study_page.record import StudyRecord
from seg.page import Html, element, page

_HERE = Path(__file__).parent
_CONTENTS = {
    "arms": "Arms",
    "pairs": "How sure",
    "curves": "Curves",
    "overlays": "Overlays",
    "disagreements": "Disagreements",
    "images": "Images",
    "audit": "Audit",
    "costs": "Cost",
    "trials": "Trials",
    "provenance": "Run again",
}


def study_page(record: StudyRecord) -> Html:
    """The page. Everything from outside is escaped where it enters; pictures are inside."""
    links = (element("li", element("a", text, href=f"#{name}")) for name, text in _CONTENTS.items())
    body = [
        answer(record),
        element("nav", element("ol", *links), class_="row", aria_label="Sections"),
        compared(record),
        pairs(record),
        curves(record),
        overlays(record),
        disagreements(record),
        per_image(record),
        data(record),
        trade(record),
        cost(record),
        provenance(record),
        element(
            "footer",
            f"Study {record.study.study} on {record.study.dataset_name}. How scores are computed: docs/protocol.md.",
        ),
    ]
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "sort.js").read_text(encoding="utf-8")
    return page(f"{record.study.study}: {question(record)}", body, style, script)
