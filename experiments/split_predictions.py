"""`SplitPredictions`: what a model predicts on a split, one bit per pixel, in one small file beside the model.

A trial leaves `val_predictions.npz`, an evaluation `SPLIT_predictions.npz`. The file holds `masks`, uint8 of shape
(images, ceil(image_size² / 8)), each row one mask packed by `numpy.packbits`; `dice`, float32 of shape (images,);
`image_size`; and `dataset_key`. Images are in the order of the split's records.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg.errors import UserError
from seg.metrics import hard_dice


def predictions_file(folder: Path, split: str) -> Path:
    """Where a job leaves its predictions of a split."""
    return folder / f"{split}_predictions.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitPredictions:
    """The thresholded predictions of one model on one split.

    Attributes:
        packed: (images, ceil(image_size² / 8)) uint8, a 32nd of the probabilities: 8 KB for 256×256 pixels.
        dice: (images,) float32, of each image.
        image_size: side of the masks, in pixels.
        dataset_key: of the dataset that holds the split.
    """

    packed: np.ndarray
    dice: np.ndarray
    image_size: int
    dataset_key: str

    @classmethod
    def of(
        cls, records: np.ndarray, probabilities: Iterable[np.ndarray], threshold: float, dataset_key: str
    ) -> "SplitPredictions":
        """Thresholds probabilities as they come: a whole split of them would not fit into memory.

        Args:
            records: (images, image_size, image_size, 4) uint8, of the split.
            probabilities: (image_size, image_size) float32 for each record, in order.
            threshold: foreground is where the probability is at least this.
            dataset_key: of the dataset.
        """
        packed, dice = [], []
        for record, probability in zip(records, probabilities, strict=True):
            predicted = probability >= threshold
            packed.append(np.packbits(predicted))
            dice.append(hard_dice(record[None, ..., 3], predicted[None])[0])
        return cls(
            packed=np.stack(packed),
            dice=np.asarray(dice, np.float32),
            image_size=records.shape[1],
            dataset_key=dataset_key,
        )

    def mask(self, index: int) -> np.ndarray:
        """The predicted mask of one image, (image_size, image_size) uint8 of 0 and 1."""
        size = self.image_size
        return np.unpackbits(self.packed[index], count=size * size).reshape(size, size)

    def save(self, path: Path) -> None:
        """Writes the file: beside its place first, then renamed."""
        partial = path.with_name(f".partial.{path.name}")
        np.savez_compressed(
            partial, masks=self.packed, dice=self.dice, image_size=self.image_size, dataset_key=self.dataset_key
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "SplitPredictions":
        """Reads the file.

        Raises:
            UserError: if there is none, or it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = cls(
                    packed=stored["masks"],
                    dice=stored["dice"],
                    image_size=int(stored["image_size"]),
                    dataset_key=str(stored["dataset_key"]),
                )
        except FileNotFoundError:
            raise UserError(
                f"{path} must be there, and is not; its trial was pruned or is of an older version."
            ) from None
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            # RuntimeError: a damaged entry may ask for a password, or for another version of ZIP
            raise UserError(f"{path} must be readable, got: {error}; delete it.") from None
        shape = (len(found.dice), -(-(found.image_size**2) // 8)) if found.dice.ndim == 1 else None
        if found.packed.shape != shape or found.packed.dtype != np.uint8:
            raise UserError(f"{path} must hold masks of shape {shape}, got {found.packed.shape}; delete it.")
        return found
