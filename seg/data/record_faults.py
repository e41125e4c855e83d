"""Whether the records of a converted dataset are those that its manifest describes."""

import numpy as np

from seg.data.build import split_key
from seg.data.manifest import IGNORE, Manifest, is_foreground

_AT_ONCE = 256  # records that are read together


def record_faults(manifest: Manifest) -> list[str]:
    """What does not match, a line each.

    Counts, masks and the list of images of each split are compared with the manifest. The colours of the images are
    not: no record of them is kept.
    """
    faults = []
    classes = len(manifest.classes)
    for split, summary in manifest.splits.items():
        try:
            listed = list(manifest.examples(split))
        except (OSError, ValueError, KeyError, TypeError) as error:
            faults.append(f"{split}.jsonl cannot be read ({error})")
            continue
        if len(listed) != summary.examples:
            faults.append(f"{split}.jsonl lists {len(listed)} images, and the manifest has {summary.examples}")
        if split_key(iter(listed), manifest.settings.get("exif", "ignore")) != summary.key:
            faults.append(f"{split}.jsonl lists other images or masks than the manifest's key {summary.key}")
        records = manifest.records(split)
        pixels, empty, strange = 0, 0, False
        for first in range(0, len(records), _AT_ONCE):
            masks = records[first : first + _AT_ONCE, ..., 3]
            foreground = is_foreground(masks).sum(axis=(1, 2))
            pixels, empty = pixels + int(foreground.sum()), empty + int((foreground == 0).sum())
            strange = strange or bool(np.any((masks > classes) & (masks != IGNORE)))
        share = pixels / (len(records) * manifest.image_size**2)
        if empty != summary.empty:
            faults.append(f"{split}.npy has {empty} empty masks, and the manifest {summary.empty}")
        if share != summary.foreground:
            faults.append(f"{split}.npy has a foreground of {share:.6f}, and the manifest {summary.foreground:.6f}")
        if strange:
            faults.append(f"{split}.npy has mask values other than 0, {_listed(classes)} and {IGNORE}")
    return faults


def _listed(classes: int) -> str:
    return "1" if classes == 1 else f"1 to {classes}"
