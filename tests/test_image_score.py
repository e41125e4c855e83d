from seg.training.image_score import ImageScore, by_group, by_size, groups_of, score_names


def score(index: int, dice: float, foreground: int, group: str = "") -> ImageScore:
    """An image of which half the foreground was found, rounded down."""
    return ImageScore(
        index=index,
        file_name=f"{index}.png",
        dice=0.0,
        dice_own_size=dice,
        iou=0.0,
        true_positive=foreground // 2,
        false_positive=0,
        false_negative=foreground - foreground // 2,
        group=group,
    )


def test_thirds_by_the_objects_share_of_the_image() -> None:
    # Five images with foreground make thirds of two, two and one; the empty one is in none.
    images = [score(0, 0.9, 50), score(1, 0.1, 1), score(2, 0.3, 2), score(3, 1.0, 0), score(4, 0.5, 10)]
    small, medium, large = by_size([*images, score(5, 0.7, 20)], image_size=10)
    assert (small.name, small.images, small.smallest, small.largest) == ("small", 2, 0.01, 0.02)
    assert small.dice_own_size.mean == 0.2
    assert (medium.name, medium.smallest, medium.largest, medium.dice_own_size.mean) == ("medium", 0.1, 0.2, 0.6)
    assert (large.name, large.images, large.smallest, large.dice_own_size.mean) == ("large", 1, 0.5, 0.9)


def test_fewer_images_make_fewer_thirds() -> None:
    assert [part.name for part in by_size([score(0, 0.5, 4), score(1, 1.0, 0)], 10)] == ["small"]
    assert by_size([score(0, 1.0, 0)], 10) == []


def test_groups_worst_first() -> None:
    images = [score(0, 0.9, 5, "ann"), score(1, 0.2, 5, "bob"), score(2, 0.4, 5, "bob"), score(3, 0.0, 5)]
    bob, ann = by_group(images, 10)
    assert (bob.name, bob.images, ann.name, ann.images) == ("bob", 2, "ann", 1)
    assert round(bob.dice_own_size.mean, 9) == 0.3
    # One group is drawn whole every time: no interval comes from a single patient.
    assert bob.dice_own_size.low == bob.dice_own_size.high == bob.dice_own_size.mean
    assert by_group([score(0, 1.0, 1)], 10) == []


def test_an_image_without_a_group_is_its_own() -> None:
    images = [score(0, 1.0, 1, "7"), score(1, 1.0, 1, "7"), score(7, 1.0, 1)]
    assert groups_of(images) == ["group 7", "group 7", "image 7"]
    assert groups_of(images[2:]) is None


def test_the_scores_of_classes_have_names_of_their_own() -> None:
    assert score_names(["foreground"]) == []
    assert score_names(["0", "1"]) == ["dice_0", "dice_1"]
    # What MLflow does not take, what another score is called, and what would be the end of an interval.
    assert score_names(["a b", "a/b", "own_size", "x_low"]) == [
        "dice_a_b",
        "dice_a_b_",
        "dice_own_size_",
        "dice_x_low_",
    ]
