"""Image segmentation: checked data, U-Net variants, exact metrics. Never imports MLflow, Optuna or a command line."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seg.inference import Predictor


def load(path: Path | str, batch_size: int = 8) -> "Predictor":
    """A trained model, ready for images: `seg.load(FOLDER).predict("image.jpg").mask`.

    Args:
        path: a folder with `model.keras`, a `.keras` file, or the folder of a registered model that was downloaded.
        batch_size: images that go through the model together.

    Raises:
        UserError: if there is no such model, or if it cannot be read.
    """
    from seg.inference import Predictor  # not above: NumPy and OpenCV are slow to import, and most of seg needs neither

    return Predictor.load(path, batch_size)
