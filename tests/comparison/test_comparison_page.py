"""The page of comparisons whose figures are known."""

from __future__ import annotations

import json

from comparison_records import comparison, result
from html_pages import Page

from dmcp_deploy.artifact import read_artifact
from dmcp_deploy.comparison.page import page


def several():
    values = {"uniform": (0.80, 0.82), "dmcp": (0.81, 0.84), "dmcp*": (0.85, 0.86)}
    return [
        result(entry, seed, top1, budget=budget, macs=macs)
        for budget, macs in (("25%", 990), ("10%", 400))
        for entry, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]


def test_the_page_is_whole_and_fetches_nothing() -> None:
    found = Page(page(comparison(*several())))
    assert len(set(found.ids)) == len(found.ids)
    assert found.addresses == []
    assert "Search methods on tiny at 25%" in found.words
    assert "Top-1 at 25%" in found.words
    assert "Top-1 at 10%" in found.words


def test_the_title_names_all_budgets() -> None:
    request = {**comparison().request, "latency": "60%", "params": "2M"}
    found = Page(page(comparison(request=request)))
    assert "Search methods on tiny at 25% and 60% of time and 2M of the parameters" in found.words


def test_every_seed_has_its_dot() -> None:
    text = page(comparison(*several()))
    assert text.count("<circle ") == 12
    assert "dmcp*: mean 85.50% of 85.00%, 86.00%" in text


def test_only_the_front_is_named_in_the_plots() -> None:
    text = page(comparison(*several()))
    names = [part.split("<", 1)[0] for part in text.split('class="name"')[1:]]
    assert {name.split(">")[1] for name in names} == {"dmcp* at 25%", "dmcp* at 10%"}


def test_rows_of_one_flops_budget_are_not_plotted_against_it() -> None:
    rows = several()
    assert "Top-1 against MACs" in page(comparison(*rows))
    one = page(comparison(*(row for row in rows if row.cell.budget == "25%")))
    assert "Top-1 against MACs" not in one
    assert "Top-1 against latency" in one


def test_failures_and_strange_names_are_text() -> None:
    text = page(comparison(*several(), failures={"amc at 25%": "<script>alert(1)</script>"}))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_comparison_without_a_cell_has_a_page() -> None:
    found = Page(page(comparison(failures={"amc at 25%, seed 0": "No."})))
    assert "amc at 25%, seed 0: No." in found.words


def test_the_record_holds_every_cell(tmp_path) -> None:
    path = tmp_path / "compare.json"
    comparison(*several()).save(path)
    content = read_artifact(path, "comparison")
    assert len(content["results"]) == 12
    first = content["results"][0]
    assert first["cell"] == {
        "entry": {"method": "uniform", "distill": False, "supernet": None},
        "budget": "25%",
        "seed": 0,
    }
    assert first["latency"]["ratio"] == 0.5
    assert json.dumps(content)
