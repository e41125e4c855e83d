"""One walk from a broken export to the message that a person reads: it names the file, the annotation and the rule.

Each case is one item of hostile input. What every rule refuses in detail stands in the tests of its module.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image  # Matplotlib requires it; OpenCV writes no CMYK

from seg.data.convert import BadDataError, convert
from seg.data.images import MAX_PIXELS, decode_image
from seg.data.licence import stated_licences
from seg.data.manifest import Manifest
from seg.errors import UserError
from tests.small_export import content, write_export
from tests.test_images import png, png_chunk

NAN, INFINITE = float("nan"), float("inf")
ANNOTATIONS = "_annotations.coco.json"


def run(data: Path, **options: Any) -> Manifest:
    return convert(data, data.parent / "workspace", image_size=8, jobs=1, progress=False, **options)


def refused(folder: Path, document: Any) -> BadDataError:
    with pytest.raises(BadDataError) as caught:
        run(write_export(folder / "data", train=document))
    return caught.value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


POLYGONS = {
    "NaN": ([[1, 1, 5, 1, 5, NAN]], "coordinate_not_finite"),
    "infinite": ([[1, 1, 5, 1, INFINITE, 5]], "coordinate_not_finite"),
    "huge": ([[1, 1, 5, 1, 5, 1e9]], "coordinate_too_large"),
    "odd length": ([[1, 1, 5, 1, 5, 5, 7]], "odd_coordinates"),
    "too short": ([[1, 1, 5, 5]], "too_few_points"),
    "non-numeric": ([[1, 1, 5, 1, 5, "5"]], "coordinate_type"),
    "null": ([[1, 1, 5, 1, 5, None]], "coordinate_type"),
    "nested deeply": (nested(200), "coordinate_type"),
}
RUN_LENGTHS = {
    "too short": ({"size": [8, 8], "counts": [63]}, "rle_too_short"),
    "too long": ({"size": [8, 8], "counts": [63, 2]}, "rle_too_long"),
    "of another size": ({"size": [8, 9], "counts": [72]}, "rle_other_size"),
    "of size zero": ({"size": [0, 0], "counts": []}, "rle_other_size"),
    "of a float size": ({"size": [8.0, 8], "counts": [64]}, "rle_size_type"),
    "not decodable": ({"size": [8, 8], "counts": "a b"}, "rle_undecodable"),
    "negative": ({"size": [8, 8], "counts": [65, -1]}, "rle_negative_count"),
    "without counts": ({"size": [8, 8]}, "rle_missing_key"),
}
SEGMENTATIONS = {f"polygon {name}": case for name, case in POLYGONS.items()} | {
    f"RLE {name}": case for name, case in RUN_LENGTHS.items()
}


@pytest.mark.parametrize(("segmentation", "rule"), SEGMENTATIONS.values(), ids=SEGMENTATIONS.keys())
def test_a_segmentation_is_named_with_file_annotation_and_rule(tmp_path: Path, segmentation: Any, rule: str) -> None:
    document = content(2)
    document["annotations"][1] |= {"id": 77, "segmentation": segmentation}
    (problem,) = refused(tmp_path, document).problems
    where = tmp_path / "data" / "train" / ANNOTATIONS
    assert str(problem).startswith(f"{where}, image image1.png, annotation 77: {rule}: ")


@pytest.mark.parametrize("size", [8.0, 0, -8, 10**12, "8", None, True], ids=str)
@pytest.mark.parametrize("key", ["height", "width"])
def test_a_size_is_named_with_file_and_image(tmp_path: Path, key: str, size: Any) -> None:
    document = content(2)
    data = write_export(tmp_path / "data", train=document)
    document["images"][1][key] = size
    (data / "train" / ANNOTATIONS).write_text(json.dumps(document))
    with pytest.raises(BadDataError, match=rf"{ANNOTATIONS}, image image1.png: size_(type|range): {key} must"):
        run(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, r"missing_key: categories\[1\], id 1: 'name' is missing"),
        ({"name": "lesion"}, r"missing_key: categories\[1\]: 'id' is missing"),
        ({"id": 2, "name": 3}, r"name_type: categories\[1\], id 2: name must be a text, got 3"),
        ({"id": 2, "name": ""}, r"name_type: categories\[1\], id 2: name must be a text, got ''"),
        ({"id": "2", "name": "cyst"}, r"id_type: categories\[1\]: id must be an integer of at most 64 bits, got '2'"),
    ],
)
def test_a_category_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = content(2)
    document["categories"].append(change)
    with pytest.raises(BadDataError, match=f"train/{ANNOTATIONS}: {message}"):
        run(write_export(tmp_path / "data", train=document))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be a JSON file, and it is empty"),
        (json.dumps(content(2)).encode()[:-30], "is damaged or cut off"),
        (json.dumps(content(2)).encode("utf-16"), "is damaged or cut off"),
        (b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"<html>", "is damaged or cut off"),
        (b"null", "must hold a JSON object, got None"),
    ],
    ids=["empty", "half", "UTF-16", "nested deeply", "HTML", "null"],
)
def test_an_annotation_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    export = write_export(tmp_path / "data")
    (export / "valid" / ANNOTATIONS).write_bytes(data)
    with pytest.raises(UserError, match=f"valid/{ANNOTATIONS} .*{message}"):
        run(export)


def test_an_annotation_file_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    export = write_export(tmp_path / "data")
    (export / "valid" / ANNOTATIONS).unlink()
    os.mkfifo(export / "valid" / ANNOTATIONS)
    with pytest.raises(UserError, match=f"valid/{ANNOTATIONS} must be a file"):
        run(export)
    assert stated_licences(export) == ()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("/etc/hostname", "file_name_absolute"),
        ("../test/image0.png", "file_name_climbs"),
        ("image\0.png", "file_name_control"),
        ("link.png", "link_outside"),
        ("none.png", "missing_file"),
        ("folder.png", "unreadable_file"),
        ("pipe.png", "unreadable_file"),
    ],
)
def test_a_file_name_is_refused_without_opening_the_file(tmp_path: Path, name: str, rule: str) -> None:
    document = content(2)
    data = write_export(tmp_path / "data", train=document)
    (tmp_path / "secret.png").write_bytes((data / "train" / "image1.png").read_bytes())
    (data / "train" / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "train" / "folder.png").mkdir()
    os.mkfifo(data / "train" / "pipe.png")  # opening it would wait for ever
    document["images"][1]["file_name"] = name
    (data / "train" / ANNOTATIONS).write_text(json.dumps(document))
    with pytest.raises(BadDataError) as caught:
        run(data)
    (problem,) = caught.value.problems
    assert problem.rule == rule
    assert str(problem).startswith(str(data / "train"))
    assert rule in (data.parent / "workspace" / "problems.txt").read_text()


NOISE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def jpeg() -> bytes:
    return cv2.imencode(".jpg", NOISE)[1].tobytes()


def cmyk(suffix: str = "JPEG") -> bytes:
    """Pure red: no cyan, all magenta and yellow, no black."""
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(stream, suffix)
    return stream.getvalue()


BROKEN = {
    "truncated.jpg": (jpeg()[:-20], "image_refused", "is cut off"),
    "html.jpg": (b"<!DOCTYPE html><html></html>", "image_refused", "must be a JPEG, PNG, BMP or TIFF"),
    "bomb.png": (png(60_000, 60_000, 8, 0, b""), "image_refused", f"at most {MAX_PIXELS} pixels"),
    "empty.png": (b"", "image_refused", "is empty"),
    "other_size.png": (cv2.imencode(".png", NOISE[:6])[1].tobytes(), "size_disagrees", "the file is 8×6"),
}
ROW = b"\0" + bytes(8)  # filter byte and eight pixels
USABLE = {  # name: bytes and the colour of the first pixel
    "cmyk.jpg": (cmyk(), [255, 0, 0]),
    "cmyk.tif": (cmyk("TIFF"), [255, 0, 0]),
    "palette.png": (png(8, 8, 8, 3, ROW * 8, png_chunk(b"PLTE", bytes([10, 20, 30]))), [10, 20, 30]),
    "one_bit.png": (png(8, 8, 1, 0, b"\0\xff" * 8), [255, 255, 255]),
    "deep.png": (cv2.imencode(".png", np.full((8, 8), 257 * 40, np.uint16))[1].tobytes(), [40, 40, 40]),
    "alpha.png": (cv2.imencode(".png", np.full((8, 8, 4), [3, 2, 1, 0], np.uint8))[1].tobytes(), [1, 2, 3]),
    "grey_alpha.png": (png(8, 8, 8, 4, (b"\0" + bytes([77, 10]) * 8) * 8), [77, 77, 77]),
}


def test_bad_images_cost_themselves_and_odd_ones_are_converted(tmp_path: Path) -> None:
    names = [*BROKEN, *USABLE]
    document = content(len(names))
    for image, name in zip(document["images"], names, strict=True):
        image["file_name"] = name
    data = write_export(tmp_path / "data")
    (data / "train" / ANNOTATIONS).write_text(json.dumps(document))
    for name, (file, *_) in (BROKEN | USABLE).items():
        (data / "train" / name).write_bytes(file)
    with pytest.raises(BadDataError) as caught:
        run(data)
    found = {problem.file_name: problem for problem in caught.value.problems}
    assert set(found) == set(BROKEN)
    for name, (_, rule, message) in BROKEN.items():
        assert str(found[name]).startswith(f"{data / 'train' / name}: {rule}: ")
        assert message in found[name].message

    manifest = run(data, on_bad="skip")
    assert {problem["file_name"] for problem in manifest.left_out} == set(BROKEN)
    assert [Path(example.file_name).name for example in manifest.examples("train")] == list(USABLE)
    for record, (name, (_, colour)) in zip(manifest.records("train"), USABLE.items(), strict=True):
        assert np.abs(record[0, 0, :3].astype(int) - colour).max() <= 1, name
        assert record[..., 3].sum() == 16


def test_cmyk_decoded_at_a_fraction_of_its_size() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(stream, "JPEG")
    image = decode_image(stream.getvalue(), fit=(16, 16))
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 1
