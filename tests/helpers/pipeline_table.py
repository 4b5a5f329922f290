"""A made-up latency table of the network of `tiny_runs`, and measurements that obey it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_runs import MODEL

from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.bench.tables.probes import ProbedGroup
from dmcp_deploy.bench.tables.table import LatencyTable, TableLayer, Times
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.models import build_network
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.run.certificates import left_plan, table_ms
from dmcp_deploy.run.probes import draw_units, layer_forms
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.search.fit import width_grid
from dmcp_deploy.search.space import search_space

SPEC = NetworkSpec(MODEL, 1.0, 3, (3, 32, 32))
#: What a call of the full network takes, and what of it is no layer's.
FULL_MS, FIXED_MS = 4.0, 0.2
_PROBES = 8


def pipeline_table(**changes: Any) -> LatencyTable:
    """Returns a table of this machine whose layers take time by their channels in x out."""
    network = build_network(SPEC)
    space = search_space(network)
    groups = {group.name: ProbedGroup(group.size, group.unit) for group in network.prunable}
    drawn = draw_units(space, width_grid(space, 8), _PROBES - 1, 0)
    widths = [{name: group.size for name, group in groups.items()}, *map(space.widths, drawn)]
    forms = layer_forms(network)
    channels = {
        name: np.array([(f.inputs.at(w, groups), f.outputs.at(w, groups)) for w in widths])
        for name, f in forms.items()
    }
    full = sum(int(pairs[0].prod()) for pairs in channels.values())
    scale = (FULL_MS - FIXED_MS) / full
    layers = tuple(_layer(name, channels[name], scale, forms[name]) for name in forms)
    whole = tuple(float(ms) for ms in FIXED_MS + np.sum([la.own.ms for la in layers], axis=0))
    table = LatencyTable(
        network=SPEC,
        align=8,
        seed=0,
        groups=groups,
        widths={f"probe{number}": some for number, some in enumerate(widths)},
        setting=Setting(threads=1),
        ran_by="onnxruntime 1.0 fp32",
        environment=read_environment(devices=True),
        whole=Times(whole, (0.0,) * _PROBES),
        median_ms=whole,
        layers=layers,
    )
    return replace(table, **changes)


def of_a_board(**changes: Any) -> LatencyTable:
    """Returns the same table as if another device had been measured."""
    environment = {**read_environment(devices=True), "cpu": "a board's processor"}
    return pipeline_table(environment=environment, **changes)


def measuring(folder: Path, table: LatencyTable, slower: float) -> Callable[..., BenchRecord]:
    """Returns what stands in for a measurement: plans take so many times what the table says."""

    def measure(files: Mapping[str, Path], setting: Setting, compute: Any) -> BenchRecord:
        plan = ChannelPlan.load(left_plan(RunDir(folder)))
        assert all(path.is_file() for path in files.values())
        return bench_record(FULL_MS, slower * table_ms(table, plan), table)

    return measure


def bench_record(full_ms: float, pruned_ms: float, table: LatencyTable) -> BenchRecord:
    """Returns the record of two networks that take so long, give or take half a percent."""
    noise = 1 + 0.005 * np.sin(np.arange(60))
    measured = [
        Measured(
            name=name,
            path=f"{name}.onnx",
            digest="sha256:0",
            macs=1,
            params=1,
            batch=1,
            runtime=table.ran_by,
            threads=1,
            samples_ms=tuple((ms * noise).tolist()),
        )
        for name, ms in (("original", full_ms), ("pruned", pruned_ms))
    ]
    return BenchRecord(tuple(measured), table.environment, SPEC.input_shape)


def _layer(name: str, pairs: np.ndarray, scale: float, form: Any) -> TableLayer:
    inputs, outputs = pairs.T
    idle = (0.0,) * _PROBES
    ms = scale * inputs * outputs
    return TableLayer(
        name=name,
        kind="conv",
        kernel=(1, 1),
        # Layers of one shape would share their samples.
        sides=(sum(map(ord, name)), 1),
        full_bytes=1000,
        in_channels=tuple(inputs.tolist()),
        out_channels=tuple(outputs.tolist()),
        own=Times(tuple(ms.tolist()), idle),
        after=Times(idle, idle),
        form=form,
    )
