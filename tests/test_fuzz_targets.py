"""Whole annotation and image files, damaged at random, through the reading path that the fuzzer feeds too."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import documents, pictures, targets


def overwritten(data: bytes, most: int, random: Random) -> bytes:
    place = random.randrange(len(data) + 1)
    return (data[:place] + random.randbytes(random.randrange(9)) + data[place + 1 :])[:most]


@given(st.sampled_from(list(documents.seeds())), st.integers(0, 2**64), st.integers(1, 4))
@settings(max_examples=500, deadline=None)
def test_damaged_annotation_files(data, seed, times):
    random = Random(seed)
    for _ in range(times):
        data = documents.mutate(data, 20_000, random, lambda old, most: overwritten(old, most, random))
    assert targets.feed_annotations(data) in (True, False)


@given(st.sampled_from(list(pictures.seeds())), st.integers(0, 2**64), st.integers(1, 3))
@settings(max_examples=500, deadline=None)
def test_damaged_image_files(data, seed, times):
    random = Random(seed)
    for _ in range(times):
        data = pictures.mutate(data, 20_000, random, lambda old, most: overwritten(old, most, random))
    assert targets.feed_image(data) in (True, False)


@pytest.mark.parametrize("data", list(documents.seeds()))
def test_annotation_files_to_start_from_are_accepted(data):
    assert targets.feed_annotations(data)
