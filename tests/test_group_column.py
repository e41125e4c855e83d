"""The group column of hostile annotation files."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.group_column import MAX_LENGTH, group_in_column
from seg.data.segmentation import BrokenRule

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "p1", "\ud800", "a" * 201]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("value", [{}, [1], float("nan"), 1.0, None, True, "", "a" * 201, "\ud800", 10**200])
def test_neither_integer_nor_text(value):
    with pytest.raises(BrokenRule, match="'patient' must be an integer or a text of 1 to 200 characters, got "):
        group_in_column({"patient": value}, "patient")


@pytest.mark.parametrize("entry", [{}, {"extra": {}}, {"extra": "patient"}, {"extra": [0]}, {"extra": None}])
def test_missing(entry):
    with pytest.raises(BrokenRule, match=r"every image must name its group in 'extra\.patient', which is missing"):
        group_in_column(entry, "extra.patient")


@pytest.mark.parametrize(
    ("entry", "columns"),
    [
        ({"id": 1, "extra": {"patient": 2, "\x1b[31m": 3}}, r"it has id, extra\.patient, 'extra\.\\x1b\[31m'$"),
        ({str(number): 0 for number in range(15)}, "it has 0, 1, .*, 11 and 3 more$"),
    ],
)
def test_missing_beside_what_is_there(entry, columns):
    with pytest.raises(BrokenRule) as caught:
        group_in_column(entry, "patient")
    assert re.search(columns, caught.value.message)


@given(st.dictionaries(st.sampled_from(["a", "b", ""]), ANYTHING), st.sampled_from(["a", "a.b", "a.b.a", ".", "a."]))
def test_anything_is_a_group_or_a_broken_rule(entry, column):
    try:
        group = group_in_column(entry, column)
    except BrokenRule:
        return
    assert 1 <= len(group) <= MAX_LENGTH + 1
    group.encode("utf-8")
