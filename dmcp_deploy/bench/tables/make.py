"""From what was measured of probe networks to their latency table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmcp_deploy.bench.tables.measure import Measured, Step
from dmcp_deploy.bench.tables.probes import ProbeSet, check_form
from dmcp_deploy.bench.tables.table import LatencyTable, TableLayer, Times, output_sides
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import OnnxLayer, onnx_layers
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.registry import ONNX_RUNTIMES

#: The quantile that stands for the samples. A disturbance only ever makes a call slower, and hits
#: a longer call more often, so a low quantile is the fairer one.
_LOW = 0.1
_DIGITS = 6


def make_table(
    probes: ProbeSet, files: Mapping[str, Path], setting: Setting, measured: Measured
) -> LatencyTable:
    """Returns the latency table of probe networks.

    Times are the 10th percentile of their samples over all passes; of whole calls also the median.

    Args:
        probes: What the probes are.
        files: Probe -> its ONNX file.
        setting: How they were measured.
        measured: What was.

    Raises:
        DmcpError: The probes' files have other layers than one another.
    """
    listed = {name: onnx_layers(path, setting.batch) for name, path in files.items()}
    check_layers(listed)
    steps = [measured.steps[name] for name in listed]
    columns = list(zip(*listed.values(), strict=True))
    layers = [_layer(column, steps, probes) for column in columns]
    calls_ms = [[step.whole_ms for step in passes] for passes in steps]
    medians = [statistics.median(itertools.chain(*passes)) for passes in calls_ms]
    return LatencyTable(
        network=probes.network,
        align=probes.align,
        seed=probes.seed,
        groups=probes.groups,
        widths=probes.widths,
        setting=setting,
        ran_by=_ran_by(steps[0][0], setting, measured.environment),
        environment=measured.environment,
        layers=tuple(layers),
        whole=_times(calls_ms),
        median_ms=_rounded(medians),
    )


def _ran_by(step: Step, setting: Setting, environment: Mapping[str, Any]) -> str:
    """Returns what ran the probes; an engine's session tells the version itself."""
    if setting.runtime not in ONNX_RUNTIMES:
        return step.ran_by
    version = environment["libraries"].get(setting.runtime, "")
    return " ".join([setting.runtime, version, setting.precision])


def check_layers(listed: Mapping[str, Sequence[OnnxLayer]]) -> None:
    """Checks that networks have the same layers, at whatever widths.

    Raises:
        DmcpError: Two differ.
    """
    first, *others = listed
    names = [layer.name for layer in listed[first]]
    for other in others:
        if [layer.name for layer in listed[other]] != names:
            raise DmcpError(
                f"The probe networks {first} and {other} have layers of other names: make them"
                " again with dmcp-deploy table probes."
            )


def _layer(
    column: Sequence[OnnxLayer], steps: Sequence[Sequence[Step]], probes: ProbeSet
) -> TableLayer:
    full, *_ = column
    channels = [(layer.in_channels, layer.out_channels) for layer in column]
    inputs, outputs = zip(*channels, strict=True)
    form = probes.forms.get(full.name)
    # A layer that a probe fuses with another one has no kernel of its own there.
    absent = (0.0,)
    own = _times([[step.own.get(full.name, absent) for step in passes] for passes in steps])
    after = _times([[step.after.get(full.name, absent) for step in passes] for passes in steps])
    return TableLayer(
        name=full.name,
        kind=full.kind,
        kernel=full.kernel,
        sides=output_sides(full),
        full_bytes=full.bytes,
        in_channels=inputs,
        out_channels=outputs,
        own=own,
        after=after,
        form=form if form is not None and check_form(form, channels, probes) else None,
    )


def _times(samples: Sequence[Sequence[Sequence[float]]]) -> Times:
    """Returns the time in each probe of samples by probe and pass."""
    ms = [np.quantile(np.concatenate(passes), _LOW) for passes in samples]
    by_pass = [[np.quantile(some, _LOW) for some in passes] for passes in samples]
    return Times(_rounded(ms), _rounded([(max(some) - min(some)) / 2 for some in by_pass]))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), _DIGITS) for value in values)
