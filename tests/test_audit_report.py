"""The audit's page and JSON: complete, escaped, self-contained; and the entry point's exit codes."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import audit as entry_point
from seg.data.audit.finding import Bars, Exhibit, Finding, Table, counted
from seg.data.audit.report import as_html, as_json, summary, verdict, write_report
from seg.errors import UserError
from tests.small_export import content, write_export
from tests.tiny import write_tiny

HOSTILE = "<script>alert('x')</script>&\""


def finding(severity: str = "error", text: str = "a title") -> Finding:
    return Finding(
        rule="a_rule",
        severity=severity,
        count=1234,
        title=text,
        meaning=text,
        remedy=text,
        examples=(
            Exhibit(caption=text, picture=np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)),
            Exhibit(caption=text, picture=np.zeros((20, 30, 3), np.uint8)),
            Exhibit(caption=text),
        ),
        table=Table(columns=(text, "b"), rows=((text, "1"),)),
        bars=Bars(unit=text, values=((text, 0.25),)),
    )


class Tags(html.parser.HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_is_escaped_and_needs_no_network(tmp_path):
    page = as_html([finding(text=HOSTILE)], write_tiny(tmp_path))
    found = Tags(page)
    assert "script" not in found.tags
    assert found.tags.count("img") == 2
    assert found.addresses[0] == "#finding-1"
    assert all(re.match(r"#finding-1$|data:image/(png|jpeg);base64,", address) for address in found.addresses)
    assert "url(" not in page
    assert "width:25.0%" in page


def test_json_holds_all_but_the_pictures(tmp_path):
    content = json.loads(as_json([finding()], write_tiny(tmp_path)))
    assert content["severities"] == {"error": 1, "warning": 0, "info": 0}
    assert content["findings"][0]["count"] == 1234
    assert content["findings"][0]["examples"] == ["a title"] * 3
    assert content["findings"][0]["table"]["rows"] == [["a title", "1"]]
    assert content["key"] == "tiny-0"


def test_summary_leaves_notes_out():
    lines = summary([finding("error", "one"), finding("warning", "two"), finding("info", "three")]).splitlines()
    assert lines[:2] == ["error    one", "warning  two"]
    assert lines[2] == "Scores on this dataset are not to be trusted yet: 1 error, 1 warning, 1 note."


def test_verdicts():
    assert verdict([finding("warning")]) == "Usable, with something to look at: 1 warning."
    assert verdict([finding("info")] * 2) == "Nothing to object: 2 notes."
    assert verdict([]) == "Nothing to object: no finding."


def test_counted():
    assert [counted(1, "image"), counted(2000, "image"), counted(2, "category")] == [
        "1 image",
        "2,000 images",
        "2 categories",
    ]


def test_written_whole(tmp_path):
    page = write_report([finding(text="half a pair: \udcff")], write_tiny(tmp_path / "dataset"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json"]
    assert page == tmp_path / "out" / "audit.html"


def arguments(tmp_path: Path, *more: str) -> list[str]:
    return [
        f"--data={tmp_path / 'data'}",
        f"--workspace={tmp_path / 'workspace'}",
        f"--output={tmp_path / 'out'}",
        "--image_size=8",
        *more,
    ]


def test_exit_codes(tmp_path, capsys):
    write_export(tmp_path / "data", train=content(3), valid=content(2), test=content(2))
    good = entry_point.main(arguments(tmp_path))
    out = capsys.readouterr().out
    assert good == (3 if "error  " in out else 0)
    (tmp_path / "data" / "test" / "image0.png").write_bytes((tmp_path / "data" / "train" / "image0.png").read_bytes())
    assert entry_point.main(arguments(tmp_path)) == 3
    assert "in more than one split" in capsys.readouterr().out
    assert entry_point.main(arguments(tmp_path, "--allow_errors=yes")) == 0
    assert (tmp_path / "out" / "audit.html").is_file()


def test_output_that_cannot_be_written(tmp_path):
    write_export(tmp_path / "data")
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="output must be a folder that can be written"):
        entry_point.main(arguments(tmp_path))


def test_no_tensorflow():
    script = "import sys, seg.data.audit, seg.data.splits; print('tensorflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
