import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from experiments.prediction.batch_prediction import PredictedFile
from experiments.prediction.coco_results import image_ids, remove_results, write_results
from seg.data.coco import Category

SQUARE = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]


def annotations(folder: Path, names: list[str]) -> dict[str, Any]:
    """Image ids 10, 11, …; one annotation of category 7 where there are three categories."""
    truth = {
        "categories": [{"id": number, "name": f"category {number}"} for number in (3, 7, 9)],
        "images": [{"id": 10 + i, "file_name": name, "height": 4, "width": 4} for i, name in enumerate(names)],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "segmentation": SQUARE, "area": 4, "bbox": [1, 1, 2, 2]}
        ],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(truth))
    return truth


def predicted(path: Path, area: int = 4) -> PredictedFile:
    record = {
        "height": 4,
        "width": 4,
        "area": area,
        "bbox": [1, 1, 2, 2],
        "confidence": 0.75,
        "unlike": ["dark", "small"],
        "segmentation": SQUARE,
    }
    return PredictedFile(path, f"{path.stem}.png", record)


def test_ids_and_category_of_the_annotations_beside_the_images(tmp_path: Path) -> None:
    annotations(tmp_path, ["b.jpg", "a.jpg", "never predicted.jpg"])
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    ids = image_ids(paths)
    assert dict(ids.ids) == {paths[0]: 11, paths[1]: 10}
    assert (ids.categories, ids.note) == ((Category(id=7, name="category 7"),), "")


def test_results_load_beside_the_truth_and_beside_their_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations(tmp_path, ["b.jpg", "a.jpg"])
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    write_results([predicted(paths[0], area=0), predicted(paths[1])], tmp_path, image_ids(paths), "key")
    for file in ("_annotations.coco.json", "images.json"):
        found = COCO(tmp_path / file).loadRes(str(tmp_path / "results.json"))
        (entry,) = found.anns.values()
        assert (entry["image_id"], entry["category_id"], entry["score"], entry["bbox"]) == (10, 7, 0.75, [1, 1, 2, 2])
        assert found.annToMask(entry).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_the_table_and_what_an_earlier_call_left(tmp_path: Path) -> None:
    path = tmp_path / "a, b.jpg"
    write_results([predicted(path)], tmp_path, image_ids([path]), "key")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "file": str(path),
        "mask": "a, b.png",
        "height": "4",
        "width": "4",
        "area": "4",
        "confidence": "0.75",
        "unlike": "dark; small",
    }
    (tmp_path / ".images.json.partial.123").touch()
    (tmp_path / "mine.json").touch()
    remove_results(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.json"]


def test_no_mask_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_results([predicted(path, area=0)], tmp_path, image_ids([path]), "key")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_own_ids_without_annotations(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg"]
    ids = image_ids(paths)
    assert dict(ids.ids) == {paths[0]: 1, paths[1]: 2}
    assert [ids.file_name(path) for path in paths] == ["x/a.jpg", "y/a.jpg"]
    assert (ids.categories, ids.note) == ((Category(id=1, name="foreground"),), "")


def test_own_ids_where_the_annotations_lack_an_image(tmp_path: Path) -> None:
    annotations(tmp_path, ["a.jpg"])
    ids = image_ids([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert list(ids.ids.values()) == [1, 2]
    assert ids.note.endswith("does not list 1 of 2 images")


def test_own_ids_where_the_annotations_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "_annotations.coco.json").write_text('{"images": [')
    ids = image_ids([tmp_path / "a.jpg"])
    assert list(ids.ids.values()) == [1]
    assert "damaged or cut off" in ids.note
