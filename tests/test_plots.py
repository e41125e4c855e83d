import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.jobs.figures import learning_curves
from experiments.reports.label_places import Name, place_names
from experiments.reports.plots import (
    as_svg,
    curves_by_trial,
    dice_by_arm,
    optimisation_history,
    parameter_importance,
    trade_off,
)
from experiments.storage.stored_study import Selection, TrialRow
from seg.config import TrainConfig
from seg.training.result import EpochReport, ModelCost


def as_png(figure):
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def row(number, val_dice=0.5, state="finished", **options):
    return TrialRow(
        number=number,
        state=state,
        config=TrainConfig(**options),
        val_dice=val_dice,
        run_id="run",
        reason="",
        seconds=10.0,
    )


def priced(trial, latency_ms, multiply_adds):
    cost = ModelCost(parameters=1, multiply_adds=multiply_adds, latency_ms=latency_ms, images_per_second=1.0)
    return replace(trial, cost=cost)


def history(*scores):
    return [
        EpochReport(epoch=epoch, train_loss=0.5, val_loss=0.6, val_dice=score, images_per_second=80.0, seconds=1.0)
        for epoch, score in enumerate(scores, start=1)
    ]


def texts(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def is_drawn(figure):
    picture = cv2.imdecode(np.frombuffer(as_png(figure), np.uint8), cv2.IMREAD_COLOR)
    return picture is not None and picture.std() > 1


def test_learning_curves_mark_the_best_epoch():
    figure = learning_curves(history(0.2, 0.75, 0.7), "trial 3")
    losses, dice = figure.axes
    assert dice.get_title() == "val_dice: best 0.750 in epoch 2"
    assert [line.get_label() for line in losses.lines] == ["train_loss", "val_loss"]
    assert dice.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert is_drawn(figure)


@pytest.mark.parametrize("scores", [(), (0.5,), (0.0, 0.0)])
def test_learning_curves_of_short_runs(scores):
    assert is_drawn(learning_curves(history(*scores)))


def test_dice_by_arm_shows_every_point_and_each_mean():
    rows = [row(0, 0.5, filters=8), row(1, 0.7, filters=8, seed=1), row(2, 0.8, filters=16, loss="dice")]
    figure = dice_by_arm([*rows, row(3, None, "failed")], {"best_constant": 0.31})
    (axes,) = figure.axes
    assert texts(figure) == {"0.600", "0.800", "best constant 0.310"}  # 0.600 = (0.5 + 0.7) / 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16"]
    points = [value for line in axes.lines if line.get_marker() == "o" for value in line.get_ydata()]
    assert sorted(points) == [0.5, 0.7, 0.8]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["bce", "dice"]
    assert is_drawn(figure)


def test_optimisation_history_keeps_the_best_so_far():
    rows = [
        row(0, 0.5),
        row(1, 0.4),
        row(2, None, "failed"),
        row(3, 0.3, "pruned"),
        row(4, 0.6),
        row(5, None, "failed"),
    ]
    figure = optimisation_history(rows)
    (axes,) = figure.axes
    best = axes.lines[0]
    assert best.get_ydata().tolist() == [0.5, 0.5, 0.6, 0.6]
    assert best.get_xdata().tolist() == [0, 1, 4, 5]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["best so far (0.600)", "finished", "pruned", "failed"]
    assert is_drawn(figure)


@pytest.mark.parametrize("plot", [dice_by_arm, optimisation_history])
@pytest.mark.parametrize("rows", [[], [row(0, None, "failed")], [row(0, 0.5)]], ids=["none", "failed", "one"])
def test_studies_with_little_to_show(plot, rows):
    assert as_png(plot(rows)).startswith(b"\x89PNG")


def test_importance_finds_the_option_that_decides():
    rows = [
        row(number, 0.8 if loss == "dice" else 0.4, loss=loss, filters=filters)
        for number, (loss, filters) in enumerate([("bce", 8), ("bce", 16), ("dice", 8), ("dice", 16)] * 2)
    ]
    figure = parameter_importance(rows)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "loss", "the largest on top"
    assert axes.patches[-1].get_width() > 0.9
    assert is_drawn(figure)


@pytest.mark.parametrize(
    "changes",
    [
        [{"learning_rate": 10.0**-number} for number in range(1, 7)],
        [{"ema": 0.99 * (number % 2)} for number in range(6)],  # 0: without it
    ],
    ids=["learning rate", "one of them 0"],
)
def test_importance_of_numbers(changes):
    rows = [row(number, 0.1 * number, **change) for number, change in enumerate(changes)]
    assert is_drawn(parameter_importance(rows))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(number, 0.1 * number, filters=8 + number) for number in range(3)],
        [row(number, 0.1 * number, seed=number) for number in range(9)],
        [row(number, 0.5, filters=8 + number % 2) for number in range(9)],
        [row(number, None, "failed", filters=8 + number) for number in range(9)],
    ],
    ids=["none", "too few", "one arm", "equal scores", "all failed"],
)
def test_no_importance_where_there_is_nothing_to_tell(rows):
    assert parameter_importance(rows) is None


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["finished", "pruned", "failed", "running", "waiting"]),
            st.floats(0, 1),
            st.sampled_from(["bce", "dice", "bce_dice"]),
            st.sampled_from([8, 16, 64]),
        ),
        max_size=8,
    )
)
def test_any_study_can_be_plotted(trials):
    rows = [
        priced(
            row(
                number, None if state in ("failed", "running", "waiting") else score, state, loss=loss, filters=filters
            ),
            latency_ms=filters / 4,
            multiply_adds=filters**2,
        )
        for number, (state, score, loss, filters) in enumerate(trials)
    ]
    for plot in (dice_by_arm, optimisation_history, parameter_importance, trade_off):
        figure = plot(rows)
        assert figure is None or as_png(figure).startswith(b"\x89PNG")


def test_curves_of_trials_that_reported_and_the_best_in_bold():
    curved = [replace(row(number, filters=8 * (number + 1)), curve={1: 0.2, 2: 0.4}) for number in range(2)]
    figure = curves_by_trial([*curved, row(2)], best=1)
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [line.get_linewidth() for line in drawn] == [1.4, 3.0]
    assert [list(line.get_ydata()) for line in drawn] == [[0.2, 0.4]] * 2
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["bce", "filters 8", "filters 16"]


def test_one_epoch_is_a_point():
    figure = curves_by_trial([replace(row(0), curve={1: 0.2})])
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_more_widths_than_dashes():
    rows = [replace(row(number, filters=number + 1), curve={1: 0.2, 2: 0.3}) for number in range(9)]
    assert {line.get_linestyle() for line in curves_by_trial(rows).axes[0].lines} == {"-"}


def test_baselines_that_are_alike_do_not_cover_each_other():
    figure = dice_by_arm([row(0, 1.0)], {"best_constant": 0.0, "all_background": 0.01})
    low, high = figure.axes[0].get_ylim()
    named = [text for text in figure.axes[0].texts if "_" not in text.get_text() and " 0.0" in text.get_text()]
    places = sorted(text.xy[1] for text in named)
    assert places[1] - places[0] == pytest.approx(0.05 * (high - low))


def test_svg():
    content = as_svg(curves_by_trial([]))
    assert content.startswith(b"<?xml")
    assert b"</svg>" in content


class TestTradeOff:
    ROWS = (
        priced(row(0, 0.5, filters=8), 2.0, 1000),
        priced(row(1, 0.7, filters=16), 4.0, 4000),
        priced(row(2, 0.6, filters=4, loss="dice"), 5.0, 4000),
        priced(row(3, 0.8, filters=32), 9.0, 16000),
    )

    def test_points_front_and_names(self):
        figure = trade_off(self.ROWS, title="what accuracy costs")
        latency, work = figure.axes
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in latency.lines if line.get_marker() == "o"]
        assert points == [(2.0, 0.5), (4.0, 0.7), (5.0, 0.6), (9.0, 0.8)]
        for axes, costs in ((latency, (2.0, 4.0, 9.0)), (work, (1000, 4000, 16000))):
            corners = next(line for line in axes.lines if len(line.get_xdata()) > 2)
            assert set(costs) <= set(corners.get_xdata())
            assert [dice for dice in corners.get_ydata() if dice in (0.5, 0.7, 0.8)] == [0.5, 0.5, 0.7, 0.7, 0.8, 0.8]
            assert {text.get_text() for text in axes.texts} == {
                "bce, filters 8",
                "bce, filters 16",
                "dice, filters 4",
                "bce, filters 32",
            }
        labels = [text.get_text() for text in work.get_legend().get_texts()]
        assert labels == ["bce", "dice", "front"]
        assert is_drawn(figure)

    def test_the_registered_trial_and_the_line_of_its_rule(self):
        chosen = Selection(trial=1, rule="smallest-within-1se", best=3, standard_error=0.125, because="", least=0.675)
        figure = trade_off(self.ROWS, chosen)
        for axes, cost in zip(figure.axes, (4.0, 4000), strict=True):
            (ring,) = (line for line in axes.lines if line.get_markersize() == 13)
            assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (cost, 0.7)
            assert any(list(line.get_ydata()) == [0.675, 0.675] for line in axes.lines)
        labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
        assert labels == ["bce", "dice", "front", "registered", "one standard error\nbelow the best"]

    def test_the_best_has_no_such_line(self):
        chosen = Selection(trial=3, rule="best", best=3, standard_error=None, because="")
        labels = [text.get_text() for text in trade_off(self.ROWS, chosen).axes[1].get_legend().get_texts()]
        assert labels == ["bce", "dice", "front", "registered"]

    def test_of_many_arms_those_on_the_front_are_named(self):
        rows = [priced(row(number, 0.5, filters=8 + number), 2.0 + number, 1000 + number) for number in range(12)]
        assert [text.get_text() for text in trade_off(rows).axes[0].texts] == ["filters 8"]

    def test_a_searchs_trials_have_numbers(self):
        rows = [
            priced(
                row(
                    number,
                    0.5 + number / 10,
                    learning_rate=0.01 / (number + 3),
                    depth=3 + number,
                    dropout=0.1 * number,
                    weight_decay=0.01 + number,
                ),
                2.0 + number,
                1000,
            )
            for number in range(2)
        ]
        assert {text.get_text() for text in trade_off(rows).axes[0].texts} == {"trial 0", "trial 1"}

    @pytest.mark.parametrize("rows", [[], [row(0), row(1)], [priced(row(0), 1.0, 1), row(1)]])
    def test_fewer_than_two_known_costs(self, rows):
        assert trade_off(rows) is None


def test_names_cover_neither_each_other_nor_points_nor_lines():
    figure = learning_curves(history(0.2, 0.75, 0.7))
    axes = figure.axes[1]
    points = [(1.0, 0.2), (1.05, 0.22), (2.0, 0.75), (2.98, 0.7)]
    names = [Name(text="a name", x=x, y=y, upper=place % 2 == 0, colour="black") for place, (x, y) in enumerate(points)]
    line = [(1.0, 0.0), (1.0, 0.2), (3.0, 0.2)]
    figure.draw_without_rendering()
    place_names(axes, names, points, [line])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4
    frame = axes.get_window_extent()
    assert all(frame.contains(*box.min) and frame.contains(*box.max) for box in boxes)
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
        middle = axes.transData.transform((1.0, 0.2))[1]
        assert not box.y0 < middle < box.y1
