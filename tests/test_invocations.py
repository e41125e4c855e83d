"""What `/invocations` reads: the four forms, and everything else as one line."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.serving.invocations import Refused, check_content_type, read_invocation

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "columns", "data", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def cells(request: Any) -> list[Any]:
    return read_invocation(json.dumps(request).encode()).cells


@pytest.mark.parametrize(
    "request_",
    [
        {"inputs": ["a", "b"]},
        {"inputs": {"image": ["a", "b"]}},
        {"inputs": [{"image": "a"}, {"image": "b"}]},
        {"instances": ["a", "b"]},
        {"instances": [{"image": "a"}, {"image": "b"}]},
        {"dataframe_records": [{"image": "a"}, {"image": "b", "more": 1}]},
        {"dataframe_split": {"columns": ["image"], "index": [0, 1], "data": [["a"], ["b"]]}},
    ],
    ids=json.dumps,
)
def test_the_forms(request_: dict[str, Any]) -> None:
    assert cells(request_) == ["a", "b"]


def test_nested_lists_and_parameters() -> None:
    found = read_invocation(b'{"instances": [[[1, 2], [3, 4]]], "params": {"tta": "flips"}}')
    assert found.cells == [[[1, 2], [3, 4]]]
    assert found.params == {"tta": "flips"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", r"the body must be valid JSON, and is not \(Expecting value"),
        (b"\xff", "the body must be valid JSON"),
        (b"9" * 5000, "the body must be valid JSON"),
        (b"[1]", "exactly one of dataframe_records, dataframe_split, inputs, instances, got a list; use inputs"),
        (b"{}", "got an object with 0 of them"),
        (b'{"inputs": [], "instances": []}', "got an object with 2 of them"),
        (b'{"inputs": "aa"}', "inputs must be a list, got str"),
        (b'{"inputs": {"picture": ["aa"]}}', "inputs must have the key image, and has not"),
        (b'{"inputs": {"image": "aa"}}', "image must be a list, got str"),
        (b'{"inputs": ["aa", {"image": "aa"}]}', "each of inputs must be an object with the key image"),
        (b'{"dataframe_records": ["aa"]}', "each of dataframe_records must be an object with the key image"),
        (b'{"dataframe_split": {"columns": ["a"], "data": []}}', 'dataframe_split must have "columns"'),
        (b'{"dataframe_split": {"columns": ["image"], "data": [[1, 2]]}}', "must be lists of one image each"),
        (b"[" * 100_000, "the JSON must not be nested as deeply as this"),
        (b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}", "the JSON must not be nested as deeply as this"),
    ],
    ids=range(15),
)
def test_what_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        read_invocation(body)
    assert refused.value.status == 400


def test_too_many_images() -> None:
    assert len(cells({"inputs": [""] * 64})) == 64
    with pytest.raises(Refused, match="at most 64 images, got 65; send several requests") as refused:
        cells({"inputs": [""] * 65})
    assert refused.value.status == 413


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON", "application/json;charset=utf-8", "application/json ; charset=UTF-8"],
)
def test_content_types(kind: str) -> None:
    check_content_type(kind)


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/csv", "application/vnd.apache.parquet", "application/jsonl", "application/json;charset=utf-16"],
)
def test_content_types_that_are_refused(kind: str | None) -> None:
    with pytest.raises(Refused, match="the content type must be application/json in UTF-8, got") as refused:
        check_content_type(kind)
    assert refused.value.status == 415


@given(form=st.sampled_from(["inputs", "instances", "dataframe_records", "dataframe_split", "other"]), value=VALUES)
def test_any_json_is_read_or_refused(form: str, value: Any) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(cells({form: value}), list)
