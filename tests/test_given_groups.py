"""The audit of groups that the user names: which of them have images on two sides of the split."""

import json
from pathlib import Path

import pytest

from experiments import audit as verb
from seg.data.audit import audit
from seg.data.audit.finding import Finding
from seg.data.convert import convert
from seg.errors import UserError
from tests.small_export import content, write_export

PATTERN = r"(p\d)_"


def patients(split: dict[str, str]) -> dict:
    """An annotation file whose images have these names, each with a column `patient`; an empty one is left out."""
    found = content(len(split), height=32, width=32)
    for image, (name, patient) in zip(found["images"], split.items(), strict=True):
        image["file_name"] = name
        if patient:
            image["patient"] = patient
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Patient 1 in train and test, patient 2 in train and val, patients 3 to 8 on one side each."""
    return write_export(
        tmp_path / "data",
        train=patients({"p1_a.png": "p1", "p2_a.png": "p2", "p3_a.png": "p3", "p4_a.png": "p4"}),
        valid=patients({"p2_b.png": "p2", "p5_a.png": "p5", "p6_a.png": "p6"}),
        test=patients({"p1_b.png": "p1", "p1_c.png": "p1", "p7_a.png": "p7", "p8_a.png": "p8"}),
    )


def findings(data: Path, split: str = "official", **groups: str) -> dict[str, Finding]:
    division = groups if split != "official" else {}
    manifest = convert(
        data, data.parent / "workspace", image_size=32, on_bad="skip", jobs=1, progress=False, split=split, **division
    )
    return {finding.rule: finding for finding in audit(data, manifest, **groups)}


@pytest.mark.parametrize("groups", [{"group_pattern": PATTERN}, {"group_column": "patient"}])
def test_groups_across_the_official_split_are_an_error(data: Path, groups: dict[str, str]) -> None:
    found = findings(data, **groups)["groups_across_splits"]
    assert (found.severity, found.count) == ("error", 2)
    assert found.title == "2 of 8 groups with images in more than one split"
    assert found.table is not None
    assert found.table.columns == ("group", "train", "val", "test")
    assert found.table.rows == (("p1", "1", "0", "2"), ("p2", "1", "1", "0"))
    assert found.examples[0].caption == "group p1: train/p1_a.png beside test/p1_b.png"
    assert found.examples[0].picture is not None


@pytest.mark.parametrize("groups", [{"group_pattern": PATTERN}, {"group_column": "patient"}])
@pytest.mark.parametrize("split", ["grouped", "kfold:3/1"])
def test_a_split_by_the_same_groups_has_none(data: Path, split: str, groups: dict[str, str]) -> None:
    assert not {"groups_across_splits", "images_without_group"} & set(findings(data, split, **groups))


def test_without_groups_nothing_is_said_about_them(data: Path) -> None:
    assert not {"groups_across_splits", "images_without_group"} & set(findings(data))


def test_images_without_the_column_stay_in_the_audit(data: Path) -> None:
    path = data / "test" / "_annotations.coco.json"
    document = json.loads(path.read_text())
    del document["images"][3]["patient"]
    path.write_text(json.dumps(document))
    found = findings(data, group_column="patient")
    assert (found["images_without_group"].severity, found["images_without_group"].count) == ("warning", 1)
    assert [exhibit.caption for exhibit in found["images_without_group"].examples] == ["test/p8_a.png"]
    # It is left out of its group, and of nothing else: the official split does not look at the column.
    assert "unlabelled_images" not in found
    # Where the column divides the images, an image without it is left out of the dataset.
    assert "images_without_group" not in findings(data, "grouped", group_column="patient")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"group_pattern": "(x)"}, r"group_pattern must name the group of the images, and '\(x\)' finds none in any"),
        ({"group_column": "site"}, "group_column must name the group of the images, and 'site' finds none in any"),
        ({"group_pattern": "("}, r"group_pattern must be a regular expression, got '\('"),
    ],
)
def test_groups_that_no_image_names(data: Path, groups: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        findings(data, **groups)


def test_the_entry_point_passes_the_groups_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--data={data}", f"--workspace={data.parent / 'workspace'}", "--image_size=32"]
    options += [f"--output={data.parent / 'audit'}", "--group_column=patient"]
    assert verb.main(options) == 3
    assert "error    2 of 8 groups with images in more than one split" in capsys.readouterr().out
