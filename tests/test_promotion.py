"""The gate: a planted loss is never promoted, equal models are, and every move is recorded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.registry import promotion
from experiments.registry.image_scores import ImageScores
from experiments.registry.promotion import Decision, contend, decide, roll_back
from experiments.registry.registry import ModelInfo, Registry
from seg.errors import UserError

NAME = "seg-unet"


def scores(*dice: float, key: str = "test", groups: tuple[str, ...] | None = None) -> ImageScores:
    return ImageScores(test_key=key, dice_own_size=dice, groups=groups)


class TestDecide:
    def test_the_line_has_the_numbers(self) -> None:
        decision = decide(scores(*[0.9, 0.7] * 4), scores(*[0.8, 0.6] * 4))
        assert decision.promoted
        assert decision.reason == (
            "test Dice 0.8000 against 0.7000, difference +0.1000 (95 %: +0.1000 to +0.1000, 8 test images), "
            "which excludes a loss over 0.01"
        )

    @pytest.mark.parametrize("groups", [None, tuple("abcdefg") * 5])
    def test_a_few_images_or_groups_decide_nothing(self, groups: tuple[str, ...] | None) -> None:
        count = len(groups or "seven77")
        decision = decide(scores(*[0.9] * count, groups=groups), scores(*[0.8] * count, groups=groups))
        assert not decision.promoted
        assert decision.reason.endswith("which are too few to exclude a loss: at least 8 are needed")

    def test_a_loss_over_the_margin(self) -> None:
        worse, champion = scores(*[0.78, 0.58] * 4), scores(*[0.8, 0.6] * 4)
        decision = decide(worse, champion)
        assert not decision.promoted
        assert decision.reason.endswith("which does not exclude a loss over 0.01")
        assert decide(worse, champion, margin=0.03).promoted

    def test_a_gain_that_the_images_cannot_tell(self) -> None:
        # Differences +0.4 and -0.2: a mean gain of 0.1 with a standard error of 0.11.
        decision = decide(scores(*[0.9, 0.4] * 4), scores(*[0.5, 0.6] * 4))
        assert decision.difference is not None
        assert decision.difference.mean == pytest.approx(0.1)
        assert -0.2 <= decision.difference.low < -0.1
        assert not decision.promoted

    def test_groups_are_drawn(self) -> None:
        # 50 images gain 0.1 and 30 lose 0.1. Image by image that is a clear gain; of eight patients, three lose.
        ours = [0.6] * 50 + [0.4] * 30
        groups = tuple("abcdefgh"[index // 10] for index in range(80))
        champion = scores(*[0.5] * 80)
        assert decide(scores(*ours), champion).promoted
        grouped = decide(scores(*ours, groups=groups), champion)
        assert not grouped.promoted
        assert "80 test images in 8 groups" in grouped.reason

    @pytest.mark.parametrize("other", [scores(0.8, 0.6, key="other"), scores(0.8)])
    def test_other_images_do_not_compare(self, other: ImageScores) -> None:
        with pytest.raises(UserError, match="must be compared on the same test images"):
            decide(scores(0.9, 0.7), other)

    @pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan")])
    def test_a_margin_out_of_range(self, margin: float) -> None:
        with pytest.raises(UserError, match="margin must lie between 0 and 1"):
            decide(scores(0.9), scores(0.9), margin)

    @given(st.lists(st.floats(0, 1), min_size=8, max_size=40), st.floats(0, 0.5))
    def test_equal_models_are_promoted_at_any_margin_over_0(self, dice: list[float], margin: float) -> None:
        assert decide(scores(*dice), scores(*dice), margin).promoted == (margin > 0)

    @given(
        st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.001, 0.2), st.floats(1.01, 3), st.integers(0, 9)
    )
    def test_a_planted_loss_over_the_margin_is_never_promoted(
        self, dice: list[float], margin: float, factor: float, seed: int
    ) -> None:
        """Whatever the noise: the mean loss is over the margin in the images at hand."""
        noise = np.random.default_rng(seed).normal(0, 0.1, len(dice))
        worse = np.array(dice) - margin * factor + noise - noise.mean()
        assert not decide(scores(*worse.tolist()), scores(*dice), margin).promoted

    @pytest.mark.parametrize("images", [8, 15, 60])
    def test_how_often_a_planted_loss_passes(self, images: int) -> None:
        """The true loss is the margin: about 2.5 % of test sets let it pass, here not more than 5 %."""
        random = np.random.default_rng(0)
        worse = (random.normal(-0.01, 0.05, images) for _ in range(400))
        passed = sum(decide(scores(*differences), scores(*[0.0] * images)).promoted for differences in worse)
        assert passed <= 20


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with four versions, the last one foreign; making the schema takes seconds, a copy of it none."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    client = mlflow.MlflowClient(f"sqlite:///{path}")
    client.create_registered_model(NAME)
    for number in range(1, 5):
        tags = {"test_dice_own_size": "0.5", "test_key": "test"} if number != 4 else {}
        client.create_model_version(NAME, source=path.parent.as_uri(), run_id=f"run{number}", tags=tags)
    return path


@pytest.fixture
def registry(database: Path, tmp_path: Path) -> Registry:
    shutil.copyfile(database, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def version(registry: Registry) -> Callable[[int], ModelInfo]:
    return lambda number: registry.find(f"models:/{NAME}/{number}")


def fixed(**dice: float) -> Callable[[ModelInfo], ImageScores]:
    return lambda model: scores(*[dice[f"v{model.version}"]] * 8)


def tags(registry: Registry, number: int) -> dict[str, str]:
    return dict(mlflow.MlflowClient(registry.uri, registry.uri).get_model_version(NAME, str(number)).tags)


class TestContend:
    def test_the_first_is_champion_unseen(self, registry: Registry, version: Callable[[int], ModelInfo]) -> None:
        never: Callable[[ModelInfo], ImageScores] = None  # type: ignore[assignment]
        assert contend(registry, version(1), never) == Decision(promoted=True, reason="the first champion")
        assert contend(registry, version(1), never) == Decision(promoted=True, reason="the champion already")
        assert registry.champion(NAME) == version(1)

    def test_a_worse_one_is_refused_and_told_why(self, registry: Registry, version: Callable[[int], ModelInfo]) -> None:
        contend(registry, version(1), fixed())
        refused = contend(registry, version(2), fixed(v1=0.8, v2=0.7))
        assert not refused.promoted
        assert refused.reason.startswith("version 1 stays champion: test Dice 0.7000 against 0.8000, difference -0.1")
        assert registry.champion(NAME) == version(1)
        assert tags(registry, 2)["promotion"] == "refused"
        assert tags(registry, 2)["promotion_reason"] == refused.reason

    def test_an_equal_one_passes(self, registry: Registry, version: Callable[[int], ModelInfo]) -> None:
        contend(registry, version(1), fixed())
        passed = contend(registry, version(2), fixed(v1=0.8, v2=0.8))
        assert passed.reason.startswith("the new champion over version 1: test Dice 0.8000 against 0.8000")
        assert registry.champion(NAME) == version(2)
        assert tags(registry, 2)["promotion"] == "promoted"

    def test_force_is_recorded_with_who_and_why_not(
        self, registry: Registry, version: Callable[[int], ModelInfo], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(promotion.getpass, "getuser", lambda: "ann")
        contend(registry, version(1), fixed())
        forced = contend(registry, version(2), fixed(v1=0.8, v2=0.7), force=True)
        assert (forced.promoted, forced.forced) == (True, True)
        assert registry.champion(NAME) == version(2)
        found = tags(registry, 2)
        assert found["promotion"] == "forced"
        assert found["promotion_reason"].startswith("forced, although version 1 stays champion: test Dice 0.7000")
        assert found["promotion_decided"].endswith("+00:00 by ann")
        # Force where none was needed is no force.
        assert not contend(registry, version(3), fixed(v2=0.7, v3=0.8), force=True).forced

    def test_a_foreign_champion_stays_unscored(self, registry: Registry, version: Callable[[int], ModelInfo]) -> None:
        registry.make_champion(version(4), None, ["4"])
        refused = contend(registry, version(1), fixed())  # asking for any score would be a KeyError
        assert refused.reason == "version 4 stays champion: it has no scores of this project"
        assert contend(registry, version(1), fixed(), force=True).promoted

    def test_a_champion_that_changed_while_scoring(
        self, registry: Registry, version: Callable[[int], ModelInfo]
    ) -> None:
        contend(registry, version(1), fixed())

        def overtaken(model: ModelInfo) -> ImageScores:
            registry.make_champion(version(3), registry.champion(NAME), ["1", "3"])
            return scores(*[0.8] * 8)

        with pytest.raises(UserError, match="it became version 3 meanwhile; run promote again"):
            contend(registry, version(2), overtaken)
        assert registry.champion(NAME) == version(3)

    def test_a_user_without_a_name(
        self, registry: Registry, version: Callable[[int], ModelInfo], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nameless() -> str:
            raise OSError

        monkeypatch.setattr(promotion.getpass, "getuser", nameless)
        contend(registry, version(1), fixed())
        assert "by uid " in tags(registry, 1)["promotion_decided"]


class TestRollBack:
    def test_one_back_and_again_one_back(self, registry: Registry, version: Callable[[int], ModelInfo]) -> None:
        for number in (1, 2, 3):
            contend(registry, version(number), fixed(v1=0.5, v2=0.5, v3=0.5))
        assert roll_back(registry, NAME) == (version(3), version(2))
        assert registry.champion(NAME) == version(2)
        assert tags(registry, 3)["rolled_back"].endswith(", to version 2")
        roll_back(registry, NAME)
        assert registry.champion(NAME) == version(1)
        with pytest.raises(UserError, match="a champion before version 1, and there is none"):
            roll_back(registry, NAME)

    def test_after_a_rollback_the_one_taken_back_is_not_before_the_next(
        self, registry: Registry, version: Callable[[int], ModelInfo]
    ) -> None:
        contend(registry, version(1), fixed())
        contend(registry, version(2), fixed(v1=0.5, v2=0.5))
        roll_back(registry, NAME)
        contend(registry, version(3), fixed(v1=0.5, v3=0.5))
        assert roll_back(registry, NAME) == (version(3), version(1))

    def test_an_alias_moved_by_hand_is_part_of_the_history(
        self, registry: Registry, version: Callable[[int], ModelInfo]
    ) -> None:
        contend(registry, version(1), fixed())
        client = mlflow.MlflowClient(registry.uri, registry.uri)
        client.set_registered_model_alias(NAME, "champion", "2")
        contend(registry, version(3), fixed(v2=0.5, v3=0.5))
        assert roll_back(registry, NAME) == (version(3), version(2))
        assert roll_back(registry, NAME) == (version(2), version(1))

    def test_what_was_rolled_back_stays_so(self, registry: Registry, version: Callable[[int], ModelInfo]) -> None:
        """Running the finished study again asks the gate again, which had let it pass."""
        contend(registry, version(1), fixed())
        contend(registry, version(2), fixed(v1=0.5, v2=0.5))
        roll_back(registry, NAME)
        refused = contend(registry, version(2), fixed(v1=0.5, v2=0.9))
        assert not refused.promoted
        assert refused.reason.startswith("it was rolled back (")
        assert refused.reason.endswith(", to version 1); promote it by --model models:/seg-unet/2, or with --force yes")
        assert registry.champion(NAME) == version(1)
        assert tags(registry, 2)["promotion_reason"] == refused.reason

    @pytest.mark.parametrize("how", ["named", "force"])
    def test_a_person_may_take_a_rollback_back(
        self, registry: Registry, version: Callable[[int], ModelInfo], how: str
    ) -> None:
        contend(registry, version(1), fixed())
        contend(registry, version(2), fixed(v1=0.5, v2=0.5))
        roll_back(registry, NAME)
        assert not contend(registry, version(2), fixed(v1=0.5, v2=0.4), named=True).promoted  # the gate still holds
        decision = contend(registry, version(2), fixed(v1=0.5, v2=0.5), **{how: True})
        assert (decision.promoted, decision.forced) == (True, how == "force")
        assert registry.champion(NAME) == version(2)
        assert "rolled_back" not in tags(registry, 2)
        assert contend(registry, version(2), fixed()).reason == "the champion already"

    def test_without_a_champion(self, registry: Registry) -> None:
        with pytest.raises(UserError, match="rollback needs a champion, and seg-unet has none"):
            roll_back(registry, NAME)
