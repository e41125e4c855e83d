from pathlib import Path

import pytest

from experiments.predict import find_images
from seg.errors import UserError


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("a.png", "b.JPG", "notes.txt", "deep/c.tif"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "scans"


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ("scans", ["a.png", "b.JPG", "deep/c.tif"]),
        ("scans/a.png", ["a.png"]),
        ("scans/*.png", ["a.png"]),
        ("scans/**/*.tif", ["deep/c.tif"]),
        ("scans/**.png", ["a.png"]),  # pathlib raises for this one
        ("scans/deep/../*.png", ["deep/../a.png"]),
    ],
)
def test_a_file_a_folder_or_a_pattern(
    scans: Path, images: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [Path("scans") / name for name in found]
    monkeypatch.chdir(scans.parent)
    assert find_images(images, Path("predictions")) == expected
    assert find_images(str(scans.parent / images), Path("predictions")) == [scans.parent / path for path in expected]


@pytest.mark.parametrize("images", ["nowhere", "scans/*.bmp", "scans/[", ""])
def test_nothing_found_is_a_mistake(scans: Path, images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scans.parent)
    with pytest.raises(UserError, match="images (names no image file|must name a file)"):
        find_images(images, Path("predictions"))


def test_what_an_earlier_call_wrote_is_not_predicted(tmp_path: Path) -> None:
    (tmp_path / "predictions" / "masks").mkdir(parents=True)
    for path in (tmp_path / "scan.png", tmp_path / "predictions" / "masks" / "scan.png"):
        path.touch()
    assert find_images(str(tmp_path), tmp_path / "predictions") == [tmp_path / "scan.png"]
