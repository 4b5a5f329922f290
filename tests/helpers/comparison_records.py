"""Comparisons whose figures are known."""

from __future__ import annotations

from typing import Any

from dmcp_deploy.comparison.cells import Cell, parse_entries
from dmcp_deploy.comparison.record import CellResult, Comparison, FullResult, Latency


def result(
    entry: str, seed: int, top1: float, *, budget: str = "25%", **changes: Any
) -> CellResult:
    """Returns a finished cell; its network takes half of the full one's time."""
    fields: dict[str, Any] = {
        "cell": Cell(parse_entries(entry)[-1], budget, seed),
        "top1": top1,
        "loss": 0.5,
        "images": 100,
        "image_size": 32,
        "untrained_top1": 0.25,
        "channels": {"stem": 8},
        "macs": 990,
        "budget_macs": 1000,
        "budget_share": 0.99,
        "time_kept": None,
        "params": 50,
        "search_steps": 30,
        "plans_judged": 4,
        "search_s": 90.0,
        "train_steps": 20,
        "train_s": 60.0,
        "latency": Latency(1.0, 2.0, 0.5, 0.49, 0.51),
    }
    return CellResult(**{**fields, **changes})


def comparison(*results: CellResult, **changes: Any) -> Comparison:
    """Returns a comparison of these cells."""
    fields: dict[str, Any] = {
        "request": {
            "model": "tiny",
            "flops": "25%",
            "methods": "all",
            "seeds": 2,
            "weights": "trained",
            "init": "sliced",
            "bench": {"batches": [1]},
        },
        "environment": {"cpu": "a processor"},
        "full": (FullResult(0, 0.9, 4000, 10.0), FullResult(1, 0.92, 4000, 10.0)),
        "results": results,
        "failures": {},
    }
    return Comparison(**{**fields, **changes})
