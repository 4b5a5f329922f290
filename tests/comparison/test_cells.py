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
    entries, budgets = parse_entries("dmcp,dmcp*,uniform"), ["25%", "2.5M"]
    cells = all_cells(entries, budgets, 2)
    assert len(set(cells)) == 12
    assert [cell.seed for cell in cells] == 6 * [0] + 6 * [1]
    folders = {cell.folder for cell in cells}
    assert len(folders) == 12
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") for name in folders)


def test_a_cell_is_told_in_words() -> None:
    assert str(Cell(Entry("dmcp", distill=True), "25%", 2)) == "dmcp* at 25%, seed 2"
