"""What a conversion refuses as a whole, and what it says: all problems at once, in words that a terminal can print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seg.data.convert import BadDataError, convert
from seg.data.export import CONVERTER
from seg.data.segmentation import listed, printable
from seg.errors import UserError, one_line
from tests.small_export import content, write_export

ANNOTATIONS = "_annotations.coco.json"


def run(data: Path, **options):
    return convert(data, data.parent / "workspace", **{"image_size": 8, "jobs": 1, "progress": False} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": None}, "first .*train/_annotations.coco.json, annotation 1: image_id_type: image_id must be"),
        ({"image_id": "0"}, ".*annotation 1: image_id_type"),
        ({"image_id": 0.0}, ".*annotation 1: image_id_type"),
    ],
)
def test_an_annotation_of_an_unknown_image_is_never_skipped(tmp_path, change, message):
    document = content(2)
    document["annotations"][1] |= change
    data = write_export(tmp_path / "data", train=document)
    with pytest.raises(UserError, match=f"the images of 1 annotations are not known, {message}"):
        run(data, on_bad="skip")


@pytest.mark.parametrize("entry", [3, {"id": 7, "category_id": 1, "segmentation": []}])
def test_an_annotation_without_image_is_never_skipped(tmp_path, entry):
    document = content(2)
    document["annotations"].append(entry)
    data = write_export(tmp_path / "data", train=document)
    with pytest.raises(UserError, match="repair or remove these annotations"):
        run(data, on_bad="skip")


def test_an_annotation_of_an_image_that_is_not_in_the_file_is_passed_over(tmp_path):
    document = content(2)
    document["annotations"][1]["image_id"] = 99
    assert run(write_export(tmp_path / "data", train=document), on_bad="skip").splits["train"].examples == 2


class TestFullList:
    """Though one split has no usable image left."""

    def listed(self, data: Path) -> list[str]:
        with pytest.raises(BadDataError) as caught:
            run(data)
        lines = (data.parent / "workspace" / "problems.txt").read_text().splitlines()
        assert len(caught.value.problems) == len(lines)
        return [line.split(": ")[1] for line in lines]

    def test_of_the_annotation_files(self, tmp_path):
        train, valid = content(2), content(2)
        train["annotations"][0]["segmentation"] = 3
        data = write_export(tmp_path / "data", train=train, valid=valid)
        for image in valid["images"]:
            image["height"] = -1
        (data / "valid" / ANNOTATIONS).write_text(json.dumps(valid))
        (data / "test" / "image0.png").unlink()
        assert sorted(self.listed(data)) == ["missing_file", "segmentation_type", "size_range", "size_range"]

    def test_of_missing_files(self, tmp_path):
        data = write_export(tmp_path / "data")
        for path in [*data.glob("valid/*.png"), data / "test" / "image0.png"]:
            path.unlink()
        assert self.listed(data) == ["missing_file"] * 3
        with pytest.raises(UserError, match="split val must have at least one usable image .*missing_file"):
            run(data, on_bad="skip")

    def test_of_image_files(self, tmp_path):
        data = write_export(tmp_path / "data")
        for path in [*data.glob("train/*.png"), data / "test" / "image0.png"]:
            path.write_text("<html>")
        assert self.listed(data) == ["image_refused"] * 3
        with pytest.raises(UserError, match="split train must have at least one usable image .*train/image"):
            run(data, on_bad="skip")


def test_image_size_has_a_bound(tmp_path):
    with pytest.raises(UserError, match="image_size must be at most 4096, got 999999; use a smaller one"):
        run(write_export(tmp_path / "data"), image_size=999_999)


def test_a_group_column_that_no_image_has(tmp_path):
    data = write_export(tmp_path / "data")
    message = "group_column must name .*train.*'patient', which is missing; it has id, file_name, height, width"
    with pytest.raises(UserError, match=message):
        run(data, split="grouped", group_column="patient")


def test_names_from_outside_are_short_and_printable(tmp_path):
    document = content(2)
    names = ["line\nbreak\x1b[31mred", "x" * 5000, "\u202eabc", "lesion"]
    document["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    data = write_export(tmp_path / "data", train=document)
    with pytest.raises(UserError) as caught:
        run(data, categories="none")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert "lesion" in str(caught.value)


def test_file_names_reach_the_terminal_printable(tmp_path):
    document = content(2)
    data = write_export(tmp_path / "data", train=document)
    document["images"][1]["file_name"] = "a\x9b31m\u202e.png"
    (data / "train" / ANNOTATIONS).write_text(json.dumps(document))
    with pytest.raises(BadDataError) as caught:
        run(data)
    assert str(caught.value).isprintable()
    assert "a\\x9b31m\\u202e.png does not exist" in str(caught.value)


def test_printable():
    assert printable("a b") == "a b"
    assert printable("a\nb") == "'a\\nb'"
    assert len(printable("x" * 5000)) == 40
    assert listed(f"{number:02}" for number in range(22)).endswith("18, 19 and 2 more")
    assert one_line("a\x1b\u202e\ud800é") == "a\\x1b\\u202e\\ud800é"


def test_an_error_is_one_line_on_the_terminal():
    program = "from experiments.command_line import entry\nfrom seg.errors import UserError\n"
    program += "def main(arguments): raise UserError('no \\x1b[31m\\nname')\nentry.run(main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: no \\x1b[31m\\nname\n")


def test_records_of_earlier_converters_are_not_taken_for_these():
    assert CONVERTER >= 3  # 16-bit and transparent TIFFs come out otherwise than from version 2


def test_conversion_warns_where_nothing_is_foreground(tmp_path):
    valid = content(2) | {"annotations": []}
    data = write_export(tmp_path / "data", valid=valid)
    command = [sys.executable, "-m", "experiments.convert", "--data", data, "--image_size", "8"]
    done = subprocess.run(
        [*map(str, command), "--workspace", str(tmp_path / "workspace")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning: no image of val has foreground at 8×8 pixels; check the annotations" in done.stderr
