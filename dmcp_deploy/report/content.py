"""The report as JSON values: what is derived, beside the raw figures of every step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dmcp_deploy.bench.certificate import told
from dmcp_deploy.bench.layers.compare import compare_layer
from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, Profiled
from dmcp_deploy.bench.record import BenchRecord, Comparison, Measured, compared
from dmcp_deploy.report.facts import Accuracy, Parity, RunFacts
from dmcp_deploy.report.pareto import candidates, comparable, frontier
from dmcp_deploy.runtimes.engine_record import EngineRecord


def content(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """Returns the report of one run or several; a figure that is not finite is null."""
    placed = candidates(runs)
    timed = comparable(placed)
    report = {
        "runs": [_run(facts) for facts in runs],
        "pareto": {
            "macs": [item.name for item in frontier(placed, lambda item: item.macs)],
            "latency": [
                item.name
                for item in frontier(timed, lambda i: i.latency.median_ms if i.latency else 0.0)
            ],
        },
    }
    return {key: _plain(value) for key, value in report.items()}


def _run(facts: RunFacts) -> dict[str, Any]:
    plan = facts.plan
    budgets = () if plan is None else plan.budgets()
    met = all(budget.share <= 1 for budget in budgets) if budgets else None
    return {
        "name": facts.name,
        "path": str(facts.path),
        "request": facts.request.to_json(),
        "versions": facts.versions,
        "stage_seconds": facts.stage_seconds,
        "input": None if facts.fed is None else dataclasses.asdict(facts.fed),
        "budget_met": met,
        "budget_note": None if plan is None else " ".join(plan.notes()) or None,
        "plan": None if plan is None else plan.to_json(),
        "search": None if facts.search is None else dataclasses.asdict(facts.search),
        "search_steps": facts.search_steps,
        "train_steps": facts.train_steps,
        "accuracies": [_named(item.network.value, item) for item in facts.accuracies],
        "majority_share": facts.majority_share,
        "parities": [_named(item.what, item) for item in facts.parities],
        "unjudged": facts.unjudged,
        "certificate": None if facts.certificate is None else told(facts.certificate),
        "bench": None if facts.bench is None else _bench(facts.bench),
        "layers": None if facts.layers is None else _layers(facts.layers),
        "engines": [_engine(item) for item in facts.engines],
        "commands": facts.commands,
        "missing": {part: dataclasses.asdict(lack) for part, lack in facts.lacks.items()},
        "stale": facts.stale,
    }


def _engine(item: EngineRecord) -> dict[str, Any]:
    shown = {key: value for key, value in vars(item).items() if key not in ("layers", "input")}
    return {**shown, "input": None if item.input is None else dataclasses.asdict(item.input)}


def _named(what: str, item: Accuracy | Parity) -> dict[str, Any]:
    """Returns the figures of an accuracy or a parity, and what they are of in words."""
    types = ("network", "forms", "precision")
    return {"what": what, **{key: value for key, value in vars(item).items() if key not in types}}


def _bench(record: BenchRecord) -> dict[str, Any]:
    return {
        "input": record.input_shape,
        "environment": record.environment,
        **({"alone": True} if record.alone else {}),
        "measured": [_measured(*pair) for pair in compared(record)],
    }


def _measured(item: Measured, to_first: Comparison | None) -> dict[str, Any]:
    shown = (
        *("name", "path", "digest", "macs", "params", "batch", "runtime", "threads"),
        *("median_ms", "p90_ms", "p99_ms", "mean_ms", "cov", "throughput_per_s"),
    )
    figures = {name: getattr(item, name) for name in shown}
    ratios = None if to_first is None else dataclasses.asdict(to_first)
    return {**figures, "samples": len(item.samples_ms), "against_first": ratios}


def _layers(record: LayersRecord) -> dict[str, Any]:
    first = record.networks[0]
    return {
        "input": record.input_shape,
        "environment": record.environment,
        "networks": [_profiled(network, first) for network in record.networks],
    }


def _profiled(network: Profiled, first: Profiled) -> dict[str, Any]:
    shown = ("name", "path", "digest", "batch", "runtime", "threads", "network_median_ms")
    return {
        **{name: getattr(network, name) for name in shown},
        "limits": None if network.limits is None else dataclasses.asdict(network.limits),
        "layers": [_layer(item, network, first) for item in network.layers],
        "others": [
            {"kind": item.kind, "count": item.count, "median_ms": item.median_ms}
            for item in network.others
        ],
    }


def _layer(item: LayerTime, network: Profiled, first: Profiled) -> dict[str, Any]:
    ratios = None if network is first else compare_layer(item, network, first)
    return {
        **dataclasses.asdict(item.layer),
        "median_ms": item.median_ms,
        "gmacs_per_s": item.gmacs_per_s,
        "samples": len(item.samples_ms),
        "against_first": None if ratios is None else dataclasses.asdict(ratios),
    }


def _plain(value: Any) -> Any:
    """Returns JSON values; RFC 8259 has no word for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
