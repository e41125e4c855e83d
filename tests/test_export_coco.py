import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from seg.data import export_coco as module
from seg.data.coco_writer import SEGMENTATIONS
from seg.data.convert import convert
from seg.data.export_coco import category_name, export_coco
from seg.data.manifest import Manifest
from seg.data.masks import region
from seg.errors import UserError
from tests.small_export import SQUARE, content, write_export

ROOT = Path(__file__).parent.parent
RING = {"size": [8, 8], "counts": [9, 3, 5, 1, 1, 1, 5, 3, 36]}  # rows and columns 1 to 3 without their middle
CROWD = {"size": [8, 8], "counts": [0, 24, 40]}  # the first three columns


def annotation(number: int, image: int, segmentation: Any, *, crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 1, "segmentation": segmentation, "iscrowd": crowd}


def awkward() -> dict[str, Any]:
    """Six images: overlapping objects beside a crowd; a ring; nothing; only a crowd; diagonal pixels; two parts."""
    found = content(6)
    found["images"][5]["file_name"] = "sub/ä.png"
    found["annotations"] = [
        annotation(1, 0, [SQUARE]),
        annotation(2, 0, [[4, 4, 8, 4, 8, 8, 4, 8]]),
        annotation(3, 0, CROWD, crowd=1),
        annotation(4, 1, RING),
        annotation(5, 3, CROWD, crowd=1),
        annotation(6, 4, {"size": [8, 8], "counts": [0, 1, 8, 1, 8, 1, 45]}),
        annotation(7, 5, [[0, 0, 2, 0, 2, 2, 0, 2], [5.3, 5.1, 7.9, 4.8, 6.2, 7.7]]),
    ]
    return found


def converted(data: Path, workspace: Path, **settings: Any) -> Manifest:
    return convert(data, workspace, **{"image_size": 4, "jobs": 1, "progress": False} | settings)


def assert_same(first: Manifest, second: Manifest) -> None:
    """The same images, masks at the own size, and records in every split."""
    for split, summary in first.splits.items():
        assert second.splits[split] == summary  # counts, and the key of images and own-size masks
        assert np.array_equal(first.records(split), second.records(split))
        for mine, other in zip(first.examples(split), second.examples(split), strict=True):
            assert (other.sha256, other.mask, other.ignore) == (mine.sha256, mine.mask, mine.ignore)


def coco(output: Path, split: str) -> COCO:
    return COCO(str(output / split / "_annotations.coco.json"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export", train=awkward())


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_round_trip(data: Path, workspace: Path, tmp_path: Path, segmentation: str) -> None:
    manifest = converted(data, workspace)
    exported = export_coco(manifest, data, tmp_path / "out", segmentation=segmentation)
    # Foreground in 4 + 2 + 2 images, crowds in 2, and an empty annotation for the one with a crowd only.
    assert (exported.images, exported.annotations) == (10, 11)
    again = converted(tmp_path / "out", workspace)
    assert_same(manifest, again)
    assert [example.file_name for example in again.examples("train")][4:] == ["train/image4.png", "train/sub/ä.png"]
    assert [example.image_id for split in again.splits for example in again.examples(split)] == list(range(1, 11))
    # A second export of the same dataset has the same bytes.
    export_coco(manifest, data, tmp_path / "twin", segmentation=segmentation)
    for split in ("train", "valid", "test"):
        name = f"{split}/_annotations.coco.json"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "twin" / name).read_bytes()


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_pycocotools_reads_the_same_masks(data: Path, workspace: Path, tmp_path: Path, segmentation: str) -> None:
    manifest = converted(data, workspace)
    export_coco(manifest, data, tmp_path / "out", segmentation=segmentation)
    read = coco(tmp_path / "out", "train")
    for image, example in enumerate(manifest.examples("train"), 1):
        for crowd, counts in ((0, example.mask), (1, example.ignore)):
            found = [read.annToMask(read.anns[number]) for number in read.getAnnIds(image, iscrowd=crowd)]
            union = np.any(found, axis=0) if found else np.zeros((8, 8), bool)
            assert np.array_equal(union, np.zeros((8, 8)) if counts is None else region(counts, 8, 8))


def test_only_crowds_stay_ignored(workspace: Path, tmp_path: Path) -> None:
    found = content(1)
    # The object covers no pixel's middle; without an object in any split, crowds would be taken for foreground.
    found["annotations"] = [annotation(1, 0, [[1, 1, 1.1, 1, 1.1, 1.1]]), annotation(2, 0, CROWD, crowd=1)]
    data = write_export(tmp_path / "export", train=found, valid=found, test=found)
    manifest = converted(data, workspace)
    (example,) = manifest.examples("train")
    assert example.ignore is not None
    export_coco(manifest, data, tmp_path / "out")
    assert_same(manifest, converted(tmp_path / "out", workspace))


def test_a_division_of_our_own(data: Path, workspace: Path, tmp_path: Path) -> None:
    manifest = converted(data, workspace, split="kfold:3/1", group_pattern=r"(image\d|ä)")
    export_coco(manifest, data, tmp_path / "out", segmentation="polygon")
    again = converted(tmp_path / "out", workspace)
    assert_same(manifest, again)
    # Images of two folders may have the same name: both keep their old folder.
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        expected = [f"{folder}/{example.file_name}" for example in manifest.examples(split)]
        assert [example.file_name for example in again.examples(split)] == expected


def test_what_the_file_says_of_itself(data: Path, workspace: Path, tmp_path: Path) -> None:
    manifest = converted(data, workspace)
    export_coco(manifest, data, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "valid" / "_annotations.coco.json").read_text(encoding="utf-8"))
    assert found["info"] == {
        "description": "export, val: masks of a converted dataset",
        "tool": "seg export_coco",
        "dataset": "export",
        "dataset_key": manifest.key,
        "split": "official",
        "split_key": manifest.splits["val"].key,
        "settings": manifest.settings,
    }
    assert found["categories"] == [{"id": 1, "name": "lesion"}]


def test_the_category(data: Path, workspace: Path, tmp_path: Path) -> None:
    found = content()
    found["categories"] += [{"id": 2, "name": "cyst"}, {"id": 3, "name": "parent"}]
    found["annotations"][1]["category_id"] = 2
    data = write_export(tmp_path / "two", train=found)
    assert category_name(converted(data, workspace)) == "foreground"
    assert category_name(converted(data, workspace, categories="cyst,parent")) == "cyst"


def test_images_are_copies(data: Path, workspace: Path, tmp_path: Path) -> None:
    export_coco(converted(data, workspace), data, tmp_path / "out")
    old, new = data / "train" / "image1.png", tmp_path / "out" / "train" / "image1.png"
    assert new.read_bytes() == old.read_bytes()
    assert not os.path.samefile(old, new)


def test_a_folder_in_use_is_left_alone(data: Path, workspace: Path, tmp_path: Path) -> None:
    manifest = converted(data, workspace)
    with pytest.raises(UserError, match="output must be a new or an empty folder, and .*export is not; choose another"):
        export_coco(manifest, data, data)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="output must be a new or an empty folder, and .*file is not"):
        export_coco(manifest, data, tmp_path / "file")
    with pytest.raises(UserError, match=r"output must be a folder that can be written, got .*file/out \("):
        export_coco(manifest, data, tmp_path / "file" / "out")
    (tmp_path / "empty").mkdir()
    assert export_coco(manifest, data, tmp_path / "empty").images == 10


def test_an_image_that_changed_since(data: Path, workspace: Path, tmp_path: Path) -> None:
    manifest = converted(data, workspace)
    image = data / "test" / "image1.png"
    image.write_bytes(cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    with pytest.raises(UserError, match="test/image1.png must be the image that was converted; run convert again"):
        export_coco(manifest, data, tmp_path / "out")
    image.unlink()
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\); run convert again"):
        export_coco(manifest, data, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "workspace"]


def test_an_interruption_leaves_nothing(
    data: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    manifest = converted(data, workspace)
    monkeypatch.setattr(module, "annotation_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_coco(manifest, data, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "workspace"]


def test_the_command(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.export_coco", f"--data={data}", "--image_size=4"]
    command += [f"--workspace={tmp_path / 'workspace'}", f"--output={tmp_path / 'out'}", "--segmentation=polygon"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"exported 10 images with 11 annotations: {tmp_path / 'out'}\n")
    polygons = coco(tmp_path / "out", "test").anns[1]["segmentation"]
    assert polygons == [SQUARE]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: output must be a new or an empty folder")
