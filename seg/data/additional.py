"""Corrections join a division: into train only, and never what is scored."""

from collections.abc import Sequence

from seg.data.coco import Problem
from seg.data.export import ExportedImage
from seg.data.splits import Division
from seg.errors import UserError


def with_additional(
    divided: Division, additional: Sequence[ExportedImage]
) -> tuple[dict[str, list[ExportedImage]], list[Problem]]:
    """The images by split with the corrections behind those of train.

    A training image that is one of the corrections, byte for byte, is left out: its corrected mask stands for it. A
    correction of an image that the division left out, because it is too near to a scored one, is left out as well.

    Args:
        divided: the images of the export.
        additional: of the set of corrections.

    Returns:
        the images, and what is said of the training images and corrections that were left out.

    Raises:
        UserError: if a correction is byte for byte an image of val or test, or of another correction.
    """
    images = divided.images
    corrections = {image.sha256: image for image in additional}
    if len(corrections) < len(additional):
        names = [image.entry.file_name for image in additional if corrections[image.sha256] is not image]
        raise UserError(
            f"additional must have each image once, and {len(names)} are there again, first {names[0]}; "
            "remove one of the two."
        )
    for split in ("val", "test"):
        leaked = [image for image in images[split] if image.sha256 in corrections]
        if leaked:
            found = corrections[leaked[0].sha256].entry.file_name
            raise UserError(
                f"additional must have no image of val or test, and {len(leaked)} are in {split}, first {found} "
                f"({leaked[0].entry.file_name} there): trained on, they would make its score a leak; remove them from "
                "the set of corrections."
            )
    replaced = [image for image in images["train"] if image.sha256 in corrections]
    train = [image for image in images["train"] if image.sha256 not in corrections]
    left_out = [
        Problem(
            split=image.source,
            file=image.entry.file_name,
            rule="corrected",
            message=f"its mask is that of {corrections[image.sha256].entry.file_name} in the set of corrections",
            image_id=image.entry.id,
            file_name=image.entry.file_name,
        )
        for image in replaced
    ]
    gap = {image.sha256 for image in divided.gap}
    left_out += [
        Problem(
            split=image.source,
            file=str(image.path),
            rule="split_gap",
            message="a correction of an image that the split leaves out, near to one in another split; left out too",
            image_id=image.entry.id,
            file_name=image.entry.file_name,
        )
        for image in additional
        if image.sha256 in gap
    ]
    joining = [image for image in additional if image.sha256 not in gap]
    return {split: list(images[split]) for split in images} | {"train": [*train, *joining]}, left_out
