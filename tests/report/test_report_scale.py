from __future__ import annotations

import pytest

from dmcp_deploy.report.curves import curve, means_note, thinned, with_trend
from dmcp_deploy.report.scale import axis, number, percent, tight_axis


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [
        ([0.0, 1.0], False, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([3.0, 97.0], False, (0, 20, 40, 60, 80, 100)),
        ([0.7, 0.9], True, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([-2.0, 2.0], False, (-2, -1, 0, 1, 2)),
        ([1e9, 4e9], True, (0, 1e9, 2e9, 3e9, 4e9)),
    ],
)
def test_ticks_are_round_and_enclose_the_values(
    values: list[float], zero: bool, ticks: tuple[float, ...]
) -> None:
    found = axis(values, zero=zero)
    assert found.ticks == pytest.approx(ticks)
    assert (found.low, found.high) == (found.ticks[0], found.ticks[-1])


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [-3.0], [1e-12], [0.1 + 0.2, 0.3]])
def test_values_that_do_not_differ_still_have_an_axis(values: list[float]) -> None:
    for found in (axis(values), tight_axis(values)):
        assert found.low < found.high
        assert all(0 <= found.place(value) <= 100 for value in values)


def test_a_tight_axis_ends_with_the_values_and_has_whole_ticks() -> None:
    found = tight_axis([122.0, 243.0])
    assert (found.place(122.0), found.place(243.0)) == (0, 100)
    assert found.ticks == (150, 200)
    assert tight_axis([0.0, 3.0]).ticks == (0, 1, 2, 3)


def test_numbers_are_written_short() -> None:
    assert [number(0.5), number(1200.0), number(2e9)] == ["0.5", "1200", "2e+09"]
    assert [percent(0.5), percent(0.125)] == ["50%", "12.5%"]


def test_a_curve_leaves_out_what_is_not_finite_or_not_reported() -> None:
    steps = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "lr": 0.1}]
    assert curve([*steps, {"step": 3, "loss": 0.5}], "loss") == ((0, 1.0), (3, 0.5))


def test_of_very_many_points_blocks_stand_as_their_mean() -> None:
    points = thinned(tuple((float(i), float(i % 2)) for i in range(1000)))
    assert points == tuple((float(i), 0.5) for i in range(0, 1000, 2))
    assert means_note(1000) == " Each point is the mean of 2 neighbours."
    assert means_note(500) == ""


def test_a_noisy_line_gets_its_moving_mean_and_a_short_one_stands_alone() -> None:
    noisy = tuple((float(i), float(i % 2)) for i in range(100))
    raw, smooth = with_trend("loss", noisy)
    assert raw.points == noisy
    assert [x for x, _ in smooth.points] == [x for x, _ in noisy]
    assert smooth.points[50][1] == pytest.approx(0.5, abs=0.1)
    assert len(with_trend("loss", noisy[:10])) == 1
