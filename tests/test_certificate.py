import pytest

from experiments import convert as verb
from seg.data.certificate import AnnotationArea, AreaCertificate, compare_areas, summarise_areas
from seg.data.convert import convert
from tests.small_export import content, write_export


@pytest.mark.parametrize(
    ("stated", "agrees"),
    # 10 × 4 pixels: half a pixel along the border of the box is 10 + 4, and one for the corners: 40 ± 15
    [(40.0, True), (25.0, True), (55.0, True), (24.9, False), (55.1, False), (0.0, False), (None, None)],
)
def test_areas_agree_within_half_a_pixel_along_the_border(stated, agrees):
    assert compare_areas(7, 40, 10, 4, stated) == AnnotationArea(7, 40, stated, agrees)


def test_nothing_covered_and_nothing_stated_agree():
    areas = [compare_areas(1, 0, 0, 0, 0.0)]
    assert summarise_areas([("a.png", areas)]) == AreaCertificate(annotations=1, stated=1, agreeing=1)


def test_the_summary_names_the_largest_difference():
    found = summarise_areas(
        [
            ("a.png", [compare_areas(1, 40, 10, 4, 50.0), compare_areas(2, 40, 10, 4, None)]),  # 10 of 50: 20 %
            ("b.png", [compare_areas(1, 40, 10, 4, 160.0)]),  # 120 of 160: 75 %
        ]
    )
    assert (found.annotations, found.stated, found.agreeing) == (3, 2, 1)
    assert (found.largest_deviation, found.annotation_id, found.file_name) == (0.75, 1, "b.png")
    assert str(found) == (
        "areas: 1 of 2 annotations cover the area that the file states; the largest difference is 75%, "
        "annotation 1 of b.png"
    )


def test_a_summary_without_a_difference():
    found = summarise_areas([("a.png", [compare_areas(1, 40, 10, 4, 40.0)])])
    assert str(found) == "areas: 1 of 1 annotations cover the area that the file states"


def test_convert_says_when_areas_disagree_and_only_then(tmp_path, capsys):
    data = write_export(tmp_path / "export")
    options = [f"--data={data}", f"--workspace={tmp_path / 'workspace'}", "--image_size=8"]
    assert verb.main(options) == 0
    assert "areas:" not in capsys.readouterr().out
    train = content(2)
    train["annotations"][1]["area"] = 64  # of 16 pixels: 48 of 64 are missing
    write_export(tmp_path / "export", train=train)
    assert verb.main(options) == 0
    assert (
        "  areas: 5 of 6 annotations cover the area that the file states; the largest difference is 75%, "
        "annotation 1 of train/image1.png\n"
    ) in capsys.readouterr().out


def test_conversion_certifies_every_annotation(tmp_path):
    train = content(2, height=20, width=20)
    rectangle = [2, 3, 12, 3, 12, 7, 2, 7]  # 10 × 4 pixels
    angle = [0, 0, 8, 0, 8, 4, 4, 4, 4, 12, 0, 12]  # 8 × 4 pixels above 4 × 8: 64
    # column by column: 40 pixels of background, two columns of 20 foreground, the rest: 40 pixels
    runs = {"size": [20, 20], "counts": [40, 40, 320]}
    train["annotations"] = [
        {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [rectangle], "area": 40},
        {"id": 2, "image_id": 0, "category_id": 1, "segmentation": [angle], "area": 63.5},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": runs, "area": 400},
        {"id": 4, "image_id": 1, "category_id": 1, "segmentation": [rectangle]},
        {"id": 5, "image_id": 1, "category_id": 1, "segmentation": [], "area": 0},
    ]
    data = write_export(tmp_path / "export", train=train)
    manifest = convert(data, tmp_path / "workspace", image_size=8, jobs=1, progress=False)
    first, second = manifest.examples("train")
    assert first.areas == (AnnotationArea(1, 40, 40.0, True), AnnotationArea(2, 64, 63.5, True))
    assert second.areas == (
        AnnotationArea(3, 40, 400.0, False),
        AnnotationArea(4, 40, None, None),
        AnnotationArea(5, 0, 0.0, True),
    )
    # val and test: two squares of 16 pixels each, as stated
    assert (manifest.areas.annotations, manifest.areas.stated, manifest.areas.agreeing) == (9, 8, 7)
    assert manifest.areas.largest_deviation == 0.9  # 360 of 400
    assert (manifest.areas.annotation_id, manifest.areas.file_name) == (3, "train/image1.png")
