"""`SplitPredictions`: what a model predicts on a split, one bit per pixel and class, in one file beside the model.

A trial leaves `val_predictions.npz`, an evaluation `SPLIT_predictions.npz`. The file holds `masks`, uint8 of shape
(images, classes * ceil(image_size² / 8)), each row one mask packed by `numpy.packbits`, class by class; `dice`, float32
of shape (images,); `image_size`; `dataset_key`; and `classes`, their number, which older files lack: it is 1. Images
are in the order of the split's records.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg.decision import decide
from seg.errors import UserError
from seg.metrics import hard_dice


def predictions_file(folder: Path, split: str) -> Path:
    """Where a job leaves its predictions of a split."""
    return folder / f"{split}_predictions.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitPredictions:
    """The masks of one model on one split.

    Attributes:
        packed: (images, classes * ceil(image_size² / 8)) uint8, a 32nd of the probabilities: 8 KB for 256×256 pixels.
        dice: (images,) float32, of each image.
        image_size: side of the masks, in pixels.
        dataset_key: of the dataset that holds the split.
        classes: how many there are.
    """

    packed: np.ndarray
    dice: np.ndarray
    image_size: int
    dataset_key: str
    classes: int = 1

    @classmethod
    def of(
        cls,
        records: np.ndarray,
        probabilities: Iterable[np.ndarray],
        threshold: float | None,
        dataset_key: str,
        classes: int = 1,
        largest_component: str = "no",
    ) -> "SplitPredictions":
        """Decides on probabilities as they come: a whole split of them would not fit into memory.

        Args:
            records: (images, image_size, image_size, 4) uint8, of the split.
            probabilities: for each record, in order, as `seg.training.evaluation.predict_split` gives them.
            threshold, largest_component: as `seg.decision.decide` has them.
            dataset_key: of the dataset.
            classes: how many there are.
        """
        packed, dice = [], []
        for record, probability in zip(records, probabilities, strict=True):
            predicted = decide(probability, threshold, largest_component)
            packed.append(np.concatenate([np.packbits(predicted == label) for label in range(1, classes + 1)]))
            dice.append(hard_dice(record[None, ..., 3], predicted[None], classes)[0])
        return cls(
            packed=np.stack(packed),
            dice=np.asarray(dice, np.float32),
            image_size=records.shape[1],
            dataset_key=dataset_key,
            classes=classes,
        )

    def mask(self, index: int) -> np.ndarray:
        """The predicted mask of one image, (image_size, image_size) uint8 of 0 and the classes."""
        size = self.image_size
        planes = np.unpackbits(self.packed[index].reshape(self.classes, -1), axis=1, count=size * size)
        labels = np.arange(1, self.classes + 1, dtype=np.uint8)
        return (labels[:, None] * planes).max(axis=0).reshape(size, size)

    def save(self, path: Path) -> None:
        """Writes the file: beside its place first, then renamed."""
        partial = path.with_name(f".partial.{path.name}")
        np.savez_compressed(
            partial,
            masks=self.packed,
            dice=self.dice,
            image_size=self.image_size,
            dataset_key=self.dataset_key,
            classes=self.classes,
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
                    classes=int(stored["classes"]) if "classes" in stored else 1,
                )
        except FileNotFoundError:
            raise UserError(
                f"{path} must be there, and is not; its trial was pruned or is of an older version."
            ) from None
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            # RuntimeError: a damaged entry may ask for a password, or for another version of ZIP
            raise UserError(f"{path} must be readable, got: {error}; delete it.") from None
        bytes_per_mask = found.classes * -(-(found.image_size**2) // 8)
        shape = (len(found.dice), bytes_per_mask) if found.dice.ndim == 1 else None
        if found.packed.shape != shape or found.packed.dtype != np.uint8:
            raise UserError(f"{path} must hold masks of shape {shape}, got {found.packed.shape}; delete it.")
        return found
