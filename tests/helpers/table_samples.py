"""Latency tables of made-up times, with the truth that they follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmcp_deploy.bench.tables.probes import LayerForm, ProbedGroup, WidthForm
from dmcp_deploy.bench.tables.table import LatencyTable, TableLayer, Times
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec

SPEC = NetworkSpec("tiny:net", 1.0, 5, (3, 16, 16))
GROUPS = {"first": ProbedGroup(64, 1), "second": ProbedGroup(96, 1)}
#: Widths of the two groups in each probe, the full network first.
WIDTHS = [(64, 96), (8, 40), (16, 88), (24, 16), (32, 64), (40, 8), (48, 48), (56, 72), (60, 28)]
#: What a call takes besides its kernels, and what a profiled millisecond takes without it.
FIXED_MS, FACTOR = 0.1, 1.05
#: How much longer a middle call takes than the 10th percentile.
USUAL = 1.25


def second_ms(inputs: int, outputs: int) -> float:
    """Returns the time that the second layer is made up to take."""
    return 0.02 + 3e-5 * inputs * outputs


def first_ms(outputs: int) -> float:
    """Returns the time that the first layer is made up to take."""
    return 0.01 + 1e-3 * outputs


AFTER_MS = 0.004


def made_up(**changes: Any) -> LatencyTable:
    """Returns a table of two layers whose times follow the functions above."""
    count = len(WIDTHS)
    first, second = zip(*WIDTHS, strict=True)
    layers = (
        _layer(
            "first", (3,) * count, first, [first_ms(w) for w in first], AFTER_MS, (None, "first")
        ),
        _layer("second", first, second, [second_ms(*pair) for pair in WIDTHS], 0.0, GROUPS),
    )
    whole = tuple(whole_ms(*pair) for pair in WIDTHS)
    table = LatencyTable(
        network=SPEC,
        align=8,
        seed=0,
        groups=GROUPS,
        widths={
            "full" if i == 0 else f"probe{i:03d}": dict(zip(GROUPS, pair, strict=True))
            for i, pair in enumerate(WIDTHS)
        },
        setting=Setting(threads=1),
        ran_by="onnxruntime 1.0 fp32",
        environment={"cpu": "a processor", "machine": "x86_64", "libraries": {}},
        layers=layers,
        whole=Times(whole, (0.0,) * count),
        median_ms=tuple(USUAL * ms for ms in whole),
    )
    return replace(table, **changes)


def whole_ms(first: int, second: int) -> float:
    """Returns the time that a call is made up to take."""
    return FIXED_MS + FACTOR * (first_ms(first) + AFTER_MS + second_ms(first, second))


def plan(first: int, second: int, spec: NetworkSpec = SPEC) -> ChannelPlan:
    """Returns a plan of the made-up network."""
    groups = {"first": Keep(64, first), "second": Keep(96, second), "logits": Keep(5, 5)}
    return ChannelPlan(spec, groups, 1, 1, 1, None, "uniform", 8, 0)


def _layer(name: str, inputs: Any, outputs: Any, ms: list[float], after: float, form: Any) -> Any:
    count = len(WIDTHS)
    sides = [WidthForm(0, {group: 1}) if group else WidthForm(3, {}) for group in form]
    return TableLayer(
        name=name,
        kind="conv",
        kernel=(1, 1),
        sides=(16, 16),
        full_bytes=1000,
        in_channels=tuple(inputs),
        out_channels=tuple(outputs),
        own=Times(tuple(ms), (0.0,) * count),
        after=Times((after,) * count, (0.0,) * count),
        form=LayerForm(*sides),
    )
