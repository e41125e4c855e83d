from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seg.config import AUGMENTATIONS, CACHES, TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import evaluation_dataset, training_dataset
from seg.errors import UserError
from tests.tiny import write_tiny

CONFIG = TrainConfig(image_size=16, depth=2, filters=2, batch_size=5)


def take(manifest: Manifest, config: TrainConfig, batches: int, *, first_epoch: int = 1) -> list[np.ndarray]:
    """The first batches as records again, (batch, size, size, 4)."""
    dataset = training_dataset(manifest, config, config.batch_size, first_epoch=first_epoch)
    return [np.concatenate([images, masks], axis=-1) for images, masks in dataset.take(batches)]


def own_memory() -> int:
    """Bytes of this process that are no file's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def positions(manifest: Manifest, batches: list[np.ndarray]) -> list[int]:
    """Where in the records each unchanged image stands."""
    known = {record.tobytes(): index for index, record in enumerate(np.array(manifest.records("train")))}
    return [known[record.astype(np.uint8).tobytes()] for batch in batches for record in batch]


class TestTrainingDataset:
    def test_shapes_and_types(self, tiny: Manifest) -> None:
        images, masks = training_dataset(tiny, CONFIG, 5).element_spec
        assert (images.shape, images.dtype.name) == ((5, 16, 16, 3), "float32")
        assert (masks.shape, masks.dtype.name) == ((5, 16, 16, 1), "float32")

    def test_an_epoch_holds_each_image_once_and_drops_the_remainder(self, tiny: Manifest) -> None:
        # 13 images in batches of 5: two batches an epoch, three images left out.
        order = positions(tiny, take(tiny, CONFIG, 6))
        epochs = [order[:10], order[10:20], order[20:]]
        assert all(len(set(epoch)) == 10 for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]
        assert set(order) == set(range(13))  # what one epoch drops, another has

    @pytest.mark.parametrize("augmentation", AUGMENTATIONS)
    def test_an_epoch_is_a_function_of_seed_and_epoch(self, tiny: Manifest, augmentation: str) -> None:
        config = replace(CONFIG, augmentation=augmentation)
        batches = take(tiny, config, 6)
        np.testing.assert_array_equal(batches, take(tiny, config, 6))
        np.testing.assert_array_equal(batches[4:], take(tiny, config, 2, first_epoch=3))
        assert np.any(batches[0] != batches[2])
        assert np.any(batches[0] != take(tiny, replace(config, seed=1), 1)[0])

    def test_an_images_augmentation_does_not_depend_on_the_batch_size(self, tiny: Manifest) -> None:
        config = replace(CONFIG, augmentation="full")
        ones = np.concatenate(take(tiny, replace(config, batch_size=1), 10))
        np.testing.assert_array_equal(ones, np.concatenate(take(tiny, config, 2)))

    def test_augmentation_differs_between_epochs_for_the_same_image(self, tmp_path: Path) -> None:
        one = write_tiny(tmp_path, train=1, val=1, test=1)
        config = replace(CONFIG, batch_size=1, augmentation="full")
        first, second = take(one, config, 2)
        assert np.any(first != second)

    @pytest.mark.parametrize("cache", CACHES)
    def test_caches_give_the_same_batches(self, tiny: Manifest, cache: str) -> None:
        np.testing.assert_array_equal(take(tiny, replace(CONFIG, cache=cache), 3), take(tiny, CONFIG, 3))

    def test_the_file_cache_reads_when_needed_and_memory_at_once(self, tmp_path: Path) -> None:
        manifest = write_tiny(tmp_path)
        datasets = {cache: training_dataset(manifest, replace(CONFIG, cache=cache), 13).take(1) for cache in CACHES}
        records = np.load(tmp_path / "train.npy", mmap_mode="r+")
        records[..., :3] = 7
        records.flush()
        means = {cache: float(np.mean([images for images, _ in dataset])) for cache, dataset in datasets.items()}
        assert means["file"] == 7
        assert means["memory"] != 7

    @pytest.mark.parametrize("cache", CACHES)
    def test_memory_is_bounded(self, tmp_path: Path, cache: str) -> None:
        manifest = write_tiny(tmp_path, train=1, val=1, test=1, image_size=512)
        records = np.lib.format.open_memmap(tmp_path / "train.npy", "w+", np.uint8, (400, 512, 512, 4))
        size = records.nbytes  # 419 MB
        records[:] = 0
        del records
        before = own_memory()
        iterator = iter(training_dataset(manifest, replace(CONFIG, cache=cache), 2))
        next(iterator)
        assert own_memory() - before < (size * 1.5 if cache == "memory" else size * 0.5)

    def test_a_split_smaller_than_a_batch(self, tiny: Manifest) -> None:
        with pytest.raises(UserError, match=r"holds 13 images, got 14; use batch_size 13 or less\."):
            training_dataset(tiny, CONFIG, 14)


class TestEvaluationDataset:
    @pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
    def test_every_image_once_in_order(self, tiny: Manifest, batch_size: int) -> None:
        seen, weights = [], []
        for images, masks, weight in evaluation_dataset(tiny, "val", batch_size):
            assert images.shape == (batch_size, 16, 16, 3)
            seen.append(np.concatenate([images, masks], axis=-1))
            weights.append(weight.numpy())
        kept = np.concatenate(seen)[np.concatenate(weights) == 1]
        np.testing.assert_array_equal(kept, tiny.records("val"))
        # 7 images: batches of 10 pad 3, batches of 3 pad 2, of 1 and 7 none.
        assert (np.concatenate(weights) == 0).sum() == {1: 0, 3: 2, 7: 0, 10: 3}[batch_size]


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_an_epoch_has_the_asked_share_of_foreground(tmp_path: Path, share: float) -> None:
    manifest = write_tiny(tmp_path, train=40, val=3)
    records = np.load(tmp_path / "train.npy", mmap_mode="r+")
    records[:30, ..., 3] = 0  # 10 of 40 images keep their foreground
    records[30:, 0, 0, 3] = 1
    records.flush()
    order = positions(manifest, take(manifest, replace(CONFIG, batch_size=10, foreground_share=share), 8))
    for epoch in (order[:40], order[40:]):
        foreground = [position for position in epoch if position >= 30]
        assert len(foreground) == 40 * share
        assert max(foreground.count(position) for position in foreground) == 4 * share or share == 0.25
        assert len(set(epoch) - set(foreground)) == 40 - 40 * share
    assert order[:40] != order[40:]


def test_foreground_share_without_a_choice_changes_nothing(tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path, train=20, val=3)
    records = np.load(tmp_path / "train.npy", mmap_mode="r+")
    records[..., 3] = 1
    records.flush()
    asked = take(manifest, replace(CONFIG, foreground_share=0.5), 4)
    np.testing.assert_array_equal(asked, take(manifest, CONFIG, 4))
