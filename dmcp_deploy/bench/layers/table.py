"""The layers record as plain text tables."""

from __future__ import annotations

from dmcp_deploy.bench.layers.compare import compare_layer
from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, Profiled
from dmcp_deploy.bench.layers.roofline import Limits, bound_ms
from dmcp_deploy.bench.ratio import LatencyRatio, latency_ratio
from dmcp_deploy.text_table import columns
from dmcp_deploy.units import format_macs

_HEAD = ("layer", "kind", "width", "MACs", "ms", "share", "GMAC/s", "bound ms")
_COMPARED = ("MACs ratio", "time ratio [95%]", "likely reason")
#: Columns of words; the others hold numbers and are set flush right.
_WORDS = {"layer", "kind", "likely reason"}


def format_layers(record: LayersRecord) -> str:
    """Returns one plain text table for each network, the slowest layer first.

    The bound is what the layer would take at what the runtime reaches on this machine at best
    (see `bench.roofline`). Ratios are to the same layer of the first network, that of times
    followed by its 95% interval; the reason stands where a layer did not get faster as its
    multiply-adds fell.
    """
    first = record.networks[0]
    tables = [_table(network, None if network is first else first) for network in record.networks]
    return "\n\n".join(tables)


def layer_cells(item: LayerTime, limits: Limits | None) -> tuple[str, ...]:
    """Returns a layer's name, kind, widths, multiply-adds, time, rate and least time as text."""
    layer = item.layer
    sides = "x".join(map(str, layer.kernel))
    return (
        layer.name,
        f"{layer.kind} {sides}".strip(),
        f"{layer.in_channels} > {layer.out_channels}",
        format_macs(layer.macs),
        f"{item.median_ms:.4f}",
        f"{item.gmacs_per_s:.1f}",
        "" if limits is None else f"{limits.layer_ms(layer):.4f}",
    )


def _table(network: Profiled, first: Profiled | None) -> str:
    slowest = sorted(network.layers, key=lambda item: -item.median_ms)
    rows = [_HEAD + (_COMPARED if first else ())]
    rows += [_layer_row(item, network, first) for item in slowest]
    rows += [_sum_row(network, first), *_outside_rows(network, first)]
    right = [index for index, title in enumerate(rows[0]) if title not in _WORDS]
    notes = [f"No kernel is told of: {', '.join(network.without_kernel)}."]
    table = [_title(network), columns(rows, right)]
    return "\n".join([*table, *(notes if network.without_kernel else [])])


def _title(network: Profiled) -> str:
    limits = network.limits
    reached = "the GPU's limits are not measured" if limits is None else _reached(limits)
    return f"{network.name}: layers at batch {network.batch} in {network.runtime}; {reached}"


def _reached(limits: Limits) -> str:
    text = f"at best {limits.gmacs_per_s:.0f} GMAC/s and {limits.gbytes_per_s:.0f} GB/s here"
    if limits.cached_gbytes_per_s is None:
        return text
    return f"{text}, {limits.cached_gbytes_per_s:.0f} GB/s in the caches"


def _layer_row(item: LayerTime, network: Profiled, first: Profiled | None) -> tuple[str, ...]:
    *what, rate, bound = layer_cells(item, network.limits)
    cells = (*what, _share(item.median_ms, network), rate, bound)
    if first is None:
        return cells
    ratios = compare_layer(item, network, first)
    if ratios is None:
        return (*cells, "", "", "")
    return (*cells, f"{ratios.macs_ratio:.2f}", _ratio(ratios.time_ratio), ratios.reason)


def _sum_row(network: Profiled, first: Profiled | None) -> tuple[str, ...]:
    macs = sum(item.layer.macs for item in network.layers)
    time_ms = sum(item.median_ms for item in network.layers)
    limits = network.limits
    bound = "" if limits is None else f"{bound_ms((i.layer for i in network.layers), limits):.4f}"
    cells = (
        *(f"sum of {len(network.layers)} layers", "", "", format_macs(macs), f"{time_ms:.4f}"),
        *(_share(time_ms, network), f"{macs / time_ms / 1e6:.1f}", bound),
    )
    if first is None:
        return cells
    macs_ratio = macs / sum(item.layer.macs for item in first.layers)
    time_ratio = time_ms / sum(item.median_ms for item in first.layers)
    return (*cells, f"{macs_ratio:.2f}", f"{time_ratio:.2f}", "")


def _outside_rows(network: Profiled, first: Profiled | None) -> list[tuple[str, ...]]:
    """Returns what is outside of layers: other kernels, all kernels, and whole calls."""
    others = sorted(network.others, key=lambda item: -item.median_ms)
    rows = [
        _time_row(f"{item.count} x {item.kind}", item.median_ms, _share(item.median_ms, network))
        for item in others
    ]
    kernels_ms = network.median_sum_ms
    rows += [
        _time_row("all kernels", kernels_ms, _share(kernels_ms, network)),
        _time_row("whole call, not profiled", network.network_median_ms, ""),
    ]
    if first is None:
        return rows
    ratios = ["" for _ in others]
    ratios.append(f"{kernels_ms / first.median_sum_ms:.2f}")
    ratios.append(_ratio(latency_ratio(first.network_ms, network.network_ms)))
    return [(*row, "", ratio, "") for row, ratio in zip(rows, ratios, strict=True)]


def _time_row(name: str, time_ms: float, share: str) -> tuple[str, ...]:
    return (name, "", "", "", f"{time_ms:.4f}", share, "", "")


def _share(time_ms: float, network: Profiled) -> str:
    return f"{time_ms / network.median_sum_ms:.1%}"


def _ratio(ratio: LatencyRatio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
