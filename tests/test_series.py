import pytest

from seg.data.series import place_in_series


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("2256_jpg.rf.3afd7903eaf3f3c5aa8da4bbb928bc19.jpg", ("#", 2256)),
        ("patient07_slice012.png", ("patient07_slice#", 12)),
        ("scan3b.tif", ("scan#b", 3)),
        ("case1/004.png", ("case1/#", 4)),
        ("case1\\004.png", ("case1/#", 4)),
        ("slice.png", None),
        ("٣.png", None),  # digits of other scripts are letters here
    ],
)
def test_place(file_name, expected):
    assert place_in_series(file_name) == expected
