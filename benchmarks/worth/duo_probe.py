"""How long D4's steps take on the device at hand, and what fits into the time because of it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from worth.duo_bench import Bench, Wave, network_of, wait
from worth.duo_search import DmcpSearch
from worth.duo_steps import DenseLane

_LARGER_BUDGET = 1.6  # a step's time at a further budget over that at the first one, about
_WORTHWHILE = 0.85  # of a step's time: trying out kernels takes time for every new shape
_PROBED = 80  # steps that a probe does


def probe_dense(bench: Bench, lanes: int) -> dict[str, Any]:
    """Returns milliseconds of a dense network's step, alone and side by side."""
    wave = Wave("uniform", bench.options.budgets[0], 1)
    widths = bench.unsearched("uniform", wave.budget)
    alone = {}
    for benchmark in (False, True):
        torch.backends.cudnn.benchmark = benchmark
        alone[benchmark] = _step_ms([bench.lane(wave, widths, 0, _PROBED)])
    best = alone[True] < _WORTHWHILE * alone[False]
    torch.backends.cudnn.benchmark = best
    together = _step_ms([bench.lane(wave, widths, seed, _PROBED) for seed in range(lanes)])
    return {
        "dense_ms": {"alone": alone[False], "alone, cudnn.benchmark": alone[True]},
        "dense_together_ms": together / lanes,
        "lanes": lanes,
        "cudnn_benchmark": best,
        "graph": bench.options.graph,
    }


def probe_search(bench: Bench) -> dict[str, Any]:
    """Returns milliseconds of a search's step in either stage."""
    torch.backends.cudnn.benchmark = False
    options = bench.options
    problem = bench.problem(network_of(options.width, 0), options.budgets[0])
    search = DmcpSearch(problem, 80, bench.splits["train"], options.search_graph)
    stages = []
    for first in (0, 40):
        search.run(first, first + 10)
        stages.append(_ms(partial(search.run, first + 10, first + 40)) / 30)
    return {"search_ms": stages, "search_graph": options.search_graph}


def _step_ms(lanes: list[DenseLane]) -> float:
    for _ in range(10):
        for lane in lanes:
            lane.step()
    return _ms(lambda: [lane.step() for _ in range(64) for lane in lanes]) / 64


def _ms(work: Callable[[], object]) -> float:
    wait()
    began = time.perf_counter()
    work()
    wait()
    return 1e3 * (time.perf_counter() - began)


def search_s(found: Mapping[str, Any], options: argparse.Namespace, budgets: int) -> float:
    """Returns the seconds of the GPU that all searches for the first budgets take, as probed."""
    first, second = found["search_ms"]
    return options.searches * options.search_steps * (first + budgets * second) / 1e3


def further_s(found: Mapping[str, Any], options: argparse.Namespace, budgets: int) -> float:
    """Returns the seconds that searches behind the first budget take."""
    return search_s(found, options, budgets) - search_s(found, options, 1)


def dense_s(found: Mapping[str, Any], options: argparse.Namespace, budgets: int) -> float:
    """Returns the seconds that all networks of the first budgets take to train."""
    networks = 3 * options.seeds + max(2, options.seeds // 2)
    dense = networks * options.dense_steps * found["dense_together_ms"]
    return dense * (1 + _LARGER_BUDGET * (budgets - 1)) / 1e3
