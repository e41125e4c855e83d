import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.licence import _stated, stated_licences
from seg.errors import UserError

BY = {"id": 1, "name": "CC BY 4.0", "url": "https://example.org/by"}
OTHER = {"id": 2, "name": "All rights reserved"}


def export(folder: Path, **contents: Any) -> Path:
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        content = contents.get(split, {"licenses": [BY]})
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / split / "_annotations.coco.json").write_text(text)
    return folder


def test_each_licence_once_over_the_splits(tmp_path: Path) -> None:
    assert stated_licences(export(tmp_path, test={"licenses": [OTHER]})) == (
        "CC BY 4.0 (https://example.org/by)",
        "All rights reserved",
    )


def test_only_those_that_images_refer_to(tmp_path: Path) -> None:
    content = {"licenses": [BY, OTHER], "images": [{"license": 2}, {"license": None}, {}]}
    assert stated_licences(export(tmp_path, train=content, valid={}, test={})) == ("All rights reserved",)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[]", '{"licenses": 3}', '{"licenses": [7, {"name": " "}]}'])
def test_what_states_nothing(tmp_path: Path, content: str) -> None:
    assert stated_licences(export(tmp_path, train=content, valid=content, test=content)) == ()


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no COCO annotations"):
        stated_licences(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab \n\u2028|", max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "name", "url", "license"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["licenses", "images", "info"]), JSON))
def test_any_json_gives_lines_of_text(content: dict[str, Any]) -> None:
    for line in _stated(content):
        assert line.strip() == line != ""
        assert len(line.splitlines()) == 1
