"""Uniform widths, with and without the channels that the last layer reads."""

from __future__ import annotations

from pathlib import Path

from search_problems import make_problem, paper_network
from tiny_nets import Chain, trace_tiny

from dmcp_deploy.search.problem import channel_counts
from dmcp_deploy.search.run import search_plan

LAST = "features.18.0"
FULL_MACS_OF_075 = 209_069_792


def test_the_papers_uniform_mobilenet_keeps_its_last_channels(tmp_path: Path) -> None:
    network = paper_network("mobilenet_v2")
    assert paper_network("mobilenet_v2", 0.75).sizes()[LAST] == 1280
    problem = make_problem(network, tmp_path, budget_macs=FULL_MACS_OF_075, align=8)
    (everywhere, _), (plan, _) = (
        search_plan(method, problem, 8) for method in ("uniform", "uniform-keep-last")
    )
    assert plan.method == "uniform-keep-last"
    assert plan.widths()[LAST] == 1280
    assert everywhere.widths()[LAST] < 0.9 * 1280
    others = [name for name in plan.widths() if name != LAST]
    assert all(plan.widths()[name] <= everywhere.widths()[name] for name in others)
    assert all(0.6 <= plan.widths()[g.name] / g.size <= 1 for g in network.prunable)
    assert plan.macs >= 0.98 * FULL_MACS_OF_075


def test_all_that_the_last_layer_reads_is_kept(tmp_path: Path) -> None:
    network = trace_tiny(Chain)
    _, result = search_plan("uniform-keep-last", make_problem(network, tmp_path, share=0.505), 1)
    widths = channel_counts(result.widths)
    assert widths["conv2"] == 12
    assert widths["conv1"] == 4


def test_a_budget_below_what_is_kept_narrows_it_behind_all_others(tmp_path: Path) -> None:
    problem = make_problem(trace_tiny(Chain), tmp_path, share=0.1)
    _, result = search_plan("uniform-keep-last", problem, 1)
    widths = channel_counts(result.widths)
    assert widths["conv1"] == problem.grid.low[0]
    assert widths["conv2"] < 12


def test_what_is_kept_goes_narrower_where_the_others_cannot_fill_the_budget(tmp_path: Path) -> None:
    problem = make_problem(trace_tiny(Chain), tmp_path, share=0.5)
    plan, result = search_plan("uniform-keep-last", problem, 1)
    most, accounting = problem.limits.limits[0].most, problem.accounting
    more, less = (
        accounting.macs(accounting.units({"conv1": kept, "conv2": 12})) for kept in (4, 3)
    )
    assert more > most
    assert less < 0.98 * most
    assert channel_counts(result.widths)["conv2"] < 12
    assert 0.98 * most <= plan.macs <= most
