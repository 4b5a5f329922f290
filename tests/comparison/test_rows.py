"""Rows of the table from cells whose figures are known."""

from __future__ import annotations

import pytest
from comparison_records import comparison, result

from dmcp_deploy.comparison.page import text
from dmcp_deploy.comparison.record import TimeKept
from dmcp_deploy.comparison.rows import full_line, method_rows, rows_table


def test_the_most_accurate_stands_first_in_its_budget() -> None:
    cells = [
        result("uniform", 0, 0.8),
        result("dmcp", 0, 0.9),
        result("uniform", 0, 0.95, budget="10%"),
        result("dmcp", 0, 0.7, budget="10%"),
    ]
    found = [(row.budget, str(row.entry)) for row in method_rows(comparison(*cells))]
    assert found == [("25%", "dmcp"), ("25%", "uniform"), ("10%", "uniform"), ("10%", "dmcp")]


def test_the_gain_pairs_the_seeds_that_both_have() -> None:
    cells = [
        *(result("uniform", seed, top1) for seed, top1 in enumerate((0.80, 0.82))),
        *(result("dmcp", seed, top1) for seed, top1 in enumerate((0.81, 0.84, 0.10))),
    ]
    by_name = {str(row.entry): row for row in method_rows(comparison(*cells))}
    assert by_name["uniform"].gain is None
    gain = by_name["dmcp"].gain
    assert gain is not None
    assert gain.mean == pytest.approx(0.015)
    assert by_name["dmcp"].top1 == pytest.approx((0.81 + 0.84 + 0.10) / 3)


def test_distilled_uniform_is_compared_with_uniform() -> None:
    found = method_rows(comparison(result("uniform", 0, 0.8), result("uniform*", 0, 0.9)))
    assert found[0].gain is not None
    assert found[0].gain.mean == pytest.approx(0.1)


def test_without_uniform_there_is_no_gain() -> None:
    (row,) = method_rows(comparison(result("dmcp", 0, 0.8)))
    assert row.gain is None


def controls(*entries: str) -> dict[str, tuple[str, float]]:
    """Returns row -> its control and how much more accurate it is, for accuracies 0.5, 0.6, ..."""
    cells = [result(entry, 0, 0.5 + 0.1 * place) for place, entry in enumerate(entries)]
    rows = method_rows(comparison(*cells))
    return {
        str(row.entry): (str(row.control.entry), pytest.approx(row.control.gain.mean))
        for row in rows
        if row.control is not None
    }


def test_the_control_is_cut_out_of_the_same_weights_and_trained_alike() -> None:
    found = controls("uniform", "uniform@dmcp", "uniform@dmcp*", "dmcp", "dmcp*", "l1")
    assert found == {"dmcp": ("uniform@dmcp", 0.2), "dmcp*": ("uniform@dmcp*", 0.2)}


def test_a_distilled_row_is_controlled_by_distilled_uniform_at_least() -> None:
    assert controls("uniform", "uniform*", "dmcp*") == {"dmcp*": ("uniform*", 0.1)}
    assert controls("uniform", "uniform*", "dmcp") == {}
    assert controls("uniform@dmcp", "random@dmcp") == {"random@dmcp": ("uniform@dmcp", 0.1)}


def test_the_table_names_the_control() -> None:
    cells = [result("uniform@dmcp", 0, 0.8), result("dmcp", 0, 0.81)]
    table = rows_table(method_rows(comparison(*cells)))
    row = dict(zip(table.head, table.rows[0], strict=True))
    assert row["minus its control [95%]"] == "+1.00 uniform@dmcp"
    assert "minus uniform [95%]" not in table.head


def test_budgets_in_time_are_told_as_predicted_and_as_measured() -> None:
    met, missed = (
        TimeKept(2.0, 1.9, measured, verdict, "a board")
        for measured, verdict in ((1.8, "met"), (2.1, "missed"))
    )
    elsewhere = TimeKept(2.0, 1.9, None, "predicted, not measured here", "a board")
    cells = [
        result("dmcp", 0, 0.8, time_kept=met, budget_share=0.98),
        result("dmcp", 1, 0.8, time_kept=missed, budget_share=1.0),
        result("uniform", 0, 0.7, time_kept=elsewhere, budget_macs=None),
    ]
    table = rows_table(method_rows(comparison(*cells)))
    dmcp, uniform = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    assert dmcp["of the budget"] == "99.0%"
    assert dmcp["measured"] == "97.5% (met 1, missed 1)"
    assert uniform["measured"] == "predicted, not measured here 1"
    assert "measured" not in rows_table(method_rows(comparison(result("dmcp", 0, 0.8)))).head


def test_a_row_has_no_latency_until_all_of_it_is_measured() -> None:
    whole = method_rows(comparison(result("dmcp", 0, 0.8), result("dmcp", 1, 0.8)))
    half = method_rows(comparison(result("dmcp", 0, 0.8), result("dmcp", 1, 0.8, latency=None)))
    assert whole[0].latency_ratio == 0.5
    assert half[0].latency_ratio is None


def test_the_table_holds_the_figures() -> None:
    cells = [
        *(result("uniform", seed, top1) for seed, top1 in enumerate((0.80, 0.82))),
        *(result("dmcp", seed, top1) for seed, top1 in enumerate((0.81, 0.84))),
    ]
    table = rows_table(method_rows(comparison(*cells)))
    row = dict(zip(table.head, table.rows[0], strict=True))
    assert row["method"] == "dmcp"
    assert row["top-1"] == "82.50%"
    assert row["deviation"] == "2.12%"
    # Differences 1 and 2 points: mean 1.5, deviation 0.7071; t(0.975, 1) = 12.706: half 6.353.
    assert row["minus uniform [95%]"] == "+1.50 [-4.85, +7.85]"
    assert row["latency ratio"] == "0.500"
    assert row["search min"] == "1.5"
    assert (row["search steps"], row["plans judged"]) == ("30", "4")


def test_text_tells_what_failed_and_the_full_network() -> None:
    told = text(comparison(result("dmcp", 0, 0.8), failures={"amc at 25%, seed 0": "No."}))
    assert told.splitlines()[-1] == "amc at 25%, seed 0: No."
    assert "The full network: top-1 91.00% ± 1.41% (2 seeds), 4.0K multiply-adds." in told


def test_nothing_is_said_of_a_full_network_that_was_not_trained() -> None:
    assert full_line(comparison(full=())) == ""
    assert text(comparison(full=(), failures={"a": "No."})) == "a: No."
