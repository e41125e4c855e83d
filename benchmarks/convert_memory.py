"""How much memory a conversion and an audit take, however many images there are.

    python -m benchmarks.convert_memory [--images 1000 5000 20000]

Generates exports of small grey JPEGs with one polygon each, converts and audits them in a process of their own, and
prints the peak of the resident memory of that process and its workers, added up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
from tqdm import tqdm

SIDE, IMAGE_SIZE = 192, 64  # pixels: of the images, and of the records
_WORK = """
import sys
from pathlib import Path
from seg.data.convert import convert
from experiments import audit
data, workspace = sys.argv[1:]
if sys.argv[0] == "convert":
    convert(Path(data), Path(workspace), image_size={size}, progress=False)
else:
    audit.main(["--data", data, "--workspace", workspace, "--image_size", "{size}", "--output", workspace + "/audit",
                "--allow_errors", "yes"])
"""


def generate(folder: Path, images: int) -> None:
    """Writes an export: four fifths of the images for training, a tenth each for validation and test."""
    random = np.random.default_rng(0)
    counts = {"train": images * 8 // 10, "valid": images // 10, "test": images // 10}
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        entries, annotations = [], []
        for index in tqdm(range(count), desc=split, delay=2):
            left, top = (int(place) for place in random.integers(0, SIDE // 2, 2))
            picture = random.integers(0, 80, (SIDE, SIDE), np.uint8)
            picture[top : top + 60, left : left + 60] += 100
            name = f"{split}_{index:06}.jpg"
            cv2.imwrite(str(folder / split / name), picture)
            entries.append({"id": index, "file_name": name, "height": SIDE, "width": SIDE})
            right, bottom = left + 60, top + 60
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                    "area": 3600,
                    "bbox": [left, top, 60, 60],
                    "iscrowd": 0,
                }
            )
        content = {"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")


def peak_memory(step: str, data: Path, workspace: Path) -> tuple[float, float]:
    """Peak in MB of one step's processes together, and its seconds."""
    code = f"import sys; sys.argv[0] = '{step}'\n" + _WORK.format(size=IMAGE_SIZE)
    started, peak = time.monotonic(), 0
    process = psutil.Popen(
        [sys.executable, "-c", code, str(data), str(workspace)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{step} failed with exit code {process.returncode}")
    return peak / 1e6, time.monotonic() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20000], help="sizes of the exports")
    options = parser.parse_args()
    print("| images | convert, peak MB | seconds | audit, peak MB | seconds |\n|---|---|---|---|---|")
    for images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            data, workspace = Path(folder) / "export", Path(folder) / "workspace"
            generate(data, images)
            cells = [f"{value:.0f}" for step in ("convert", "audit") for value in peak_memory(step, data, workspace)]
            print(f"| {images} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
