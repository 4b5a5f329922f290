"""Which runs a comparison is made of."""

from __future__ import annotations

import pytest

from dmcp_deploy.comparison.cells import Cell, Entry, all_cells, parse_entries
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.compare import CompareOptions
from dmcp_deploy.registry import METHODS


def test_all_is_every_method_once() -> None:
    assert [str(entry) for entry in parse_entries("all")] == list(METHODS)
    assert parse_entries("all,uniform") == parse_entries("all")


def test_an_at_cuts_plans_out_of_what_another_row_has_trained() -> None:
    found = parse_entries("uniform@dmcp, uniform@dmcp*,dmcp,random@autoslim")
    assert [str(entry) for entry in found] == [
        *("dmcp", "uniform@dmcp", "dmcp*", "uniform@dmcp*", "autoslim", "random@autoslim"),
    ]
    assert [entry.lender for entry in found[:4]] == [None, found[0], None, found[2]]
    cell = Cell(found[3], "25%", 1)
    assert cell.folder == "uniform-from-dmcp-distilled-25pct-seed1"
    assert cell.lender == Cell(Entry("dmcp", distill=True), "25%", 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dmcp@uniform", "'dmcp@uniform': before @ stands one of random, uniform, not 'dmcp'"),
        ("l1@dmcp", "before @ stands one of random, uniform, not 'l1'"),
        ("uniform@l1", "behind @ stands one of autoslim, budget-only, dmcp, not 'l1'"),
        ("uniform@dcmp", "not 'dcmp'; did you mean dmcp[?]"),
        ("uniform@", "not ''"),
        ("all@dmcp", "not 'all'"),
    ],
)
def test_what_cannot_be_cut_or_lent_is_refused(text: str, told: str) -> None:
    with pytest.raises(DmcpError, match=rf"^--methods .*{told}"):
        parse_entries(text)


def test_a_star_trains_by_distillation() -> None:
    assert parse_entries("dmcp, dmcp*") == [Entry("dmcp"), Entry("dmcp", distill=True)]
    assert parse_entries("all*") == [Entry(method, distill=True) for method in METHODS]


@pytest.mark.parametrize("text", ["dcmp", "", "dmcp,", "dmcp**", "DMCP"])
def test_an_unknown_method_is_named_with_the_known_ones(text: str) -> None:
    with pytest.raises(DmcpError, match=r"^--methods '.*' is unknown: choose all, .*uniform"):
        parse_entries(text)


def test_a_near_match_is_named() -> None:
    with pytest.raises(DmcpError, match=r"did you mean dmcp\?"):
        parse_entries("dcmp")


@pytest.mark.parametrize("count", [0, -1, 101])
def test_seeds_are_a_number_from_one_on(count: int) -> None:
    with pytest.raises(DmcpError, match=f"--seeds {count} must lie in 1..100: it is how"):
        CompareOptions("25%", seeds=count)


def test_every_method_meets_every_budget_with_every_seed() -> None:
    entries, budgets = parse_entries("dmcp,dmcp*,uniform,uniform@dmcp"), ["25%", "25%-latency-60%"]
    cells = all_cells(entries, budgets, 2)
    assert len(set(cells)) == 16
    assert [cell.seed for cell in cells] == 8 * [0] + 8 * [1]
    folders = {cell.folder for cell in cells}
    assert len(folders) == 16
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") for name in folders)


def test_a_cell_is_told_in_words() -> None:
    assert str(Cell(Entry("dmcp", distill=True), "25%", 2)) == "dmcp* at 25%, seed 2"
