"""Every test image with its scores."""

from experiments.study_page.record import ImageRow, StudyRecord
from experiments.study_page.sections import note, section, sortable, words
from seg.page import Html

MOST_ROWS = 5000
COLUMNS = ("image", "Dice", "Dice, own size", "IoU", "object", "predicted")


def per_image(record: StudyRecord) -> Html:
    """The table of the images, the lowest Dice first."""
    title = "Image by image"
    if not record.images:
        return section("images", title, note("The best trial was not scored image by image on the test split."))
    ordered = sorted(record.images, key=lambda image: (image.dice, image.file_name))
    size = record.study.settings.get("image_size")
    unit = f"in pixels at the training size, {size} × {size}" if size else "in pixels at the training size"
    parts = [
        words(
            f"The best trial on the {len(ordered):,} test images, the lowest Dice first; a click on a column's head "
            f"sorts. Object and predicted are the foreground {unit}."
        ),
        sortable(COLUMNS, [_cells(image) for image in ordered[:MOST_ROWS]]),
    ]
    if len(ordered) > MOST_ROWS:
        parts.append(note(f"The {MOST_ROWS:,} lowest are shown; all {len(ordered):,} are in final/per_image.csv."))
    return section("images", title, *parts)


def _cells(image: ImageRow) -> list[str | tuple[str, float]]:
    scores = (image.dice, image.dice_own_size, image.iou)
    sizes = (image.true_positive + image.false_negative, image.true_positive + image.false_positive)
    return [
        image.file_name,
        *((f"{score:.3f}", score) for score in scores),
        *((f"{size:,}", size) for size in sizes),
    ]
