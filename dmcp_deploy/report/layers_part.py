"""Time layer by layer: what each took, and why some did not get faster."""

from __future__ import annotations

from dmcp_deploy.bench.layers.compare import compare_layer
from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, Profiled
from dmcp_deploy.bench.layers.table import layer_cells
from dmcp_deploy.report.charts import Labels, Point, Series, bar_chart, scatter_chart
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import Table, fold, lack_notice, table_html


def layers_part(facts: RunFacts, key: str) -> str:
    """Returns the layers' charts and table; `key` starts the ids of the charts."""
    if facts.layers is None:
        return lack_notice(facts, "layers")
    record = facts.layers
    charts = _time_chart(record, key) + _ratio_chart(record, key)
    table = table_html(layers_table(record))
    return f'<div class="pair">{charts}</div>{fold("All layers", table)}'


def layers_table(record: LayersRecord) -> Table:
    """Returns every layer of every network; ratios are to the same layer of the first."""
    head = (
        *("network", "layer", "kernel", "widths", "MACs", "ms", "GMAC/s", "bound ms"),
        *("MACs ratio", "time ratio", "95% interval", "likely reason"),
    )
    first = record.networks[0]
    rows = [
        (network.name, *layer_cells(item, network.limits), *_compared(network, item, first))
        for network in record.networks
        for item in network.layers
    ]
    return Table("Time layer by layer", head, tuple(rows))


def _compared(network: Profiled, item: LayerTime, first: Profiled) -> tuple[str, ...]:
    ratios = None if network is first else compare_layer(item, network, first)
    if ratios is None:
        return ("", "", "", "")
    time = ratios.time_ratio
    interval = f"{time.low:.3f} to {time.high:.3f}"
    return f"{ratios.macs_ratio:.3f}", f"{time.value:.3f}", interval, ratios.reason


def _time_chart(record: LayersRecord, key: str) -> str:
    """Returns the layers' times in the first network and, in front of them, in the last."""
    first, last = record.networks[0], record.networks[-1]
    names = [item.layer.name for item in first.layers]
    series = [(first.name, [item.median_ms for item in first.layers])]
    text = f"Time of each convolution and linear layer at batch {first.batch} in {first.runtime}."
    if last is not first:
        layers = map(last.find, names)
        series.append((last.name, [item.median_ms if item else 0.0 for item in layers]))
    labels = Labels(f"{key}-layers", "Time per layer", text, "layer, from input to output", "ms")
    return bar_chart(labels, names, series)


def _ratio_chart(record: LayersRecord, key: str) -> str:
    """Returns each layer's time ratio against its ratio of multiply-adds."""
    first, last = record.networks[0], record.networks[-1]
    points = [] if last is first else _points(last, first)
    if not points:
        return ""
    text = (
        "Each layer against the same layer of the original. On the ideal line its time fell as"
        " much as its multiply-adds did."
    )
    ideal = Series("ideal: as much faster as smaller", ((0.0, 0.0), (1.0, 1.0)), 3, "dash")
    labels = Labels(f"{key}-layer-ratios", "Layers against FLOPs", text, "MACs ratio", "time ratio")
    groups = ["faster with its FLOPs", "not as fast as its FLOPs"]
    return scatter_chart(labels, points, [ideal], groups, zero=(True, True))


def _points(network: Profiled, first: Profiled) -> list[Point]:
    points = []
    for item in network.layers:
        ratios = compare_layer(item, network, first)
        if ratios is None:
            continue
        time = ratios.time_ratio
        tip = [
            f"{item.median_ms:.4f} ms, {item.gmacs_per_s:.1f} GMAC/s",
            f"MACs ratio {ratios.macs_ratio:.3f}",
            f"time ratio {time.value:.3f} [{time.low:.3f}, {time.high:.3f}]",
            *([ratios.reason] if ratios.reason else []),
        ]
        place = (ratios.macs_ratio, time.value)
        colour = 1 if ratios.reason else 0
        points.append(Point(item.layer.name, *place, tuple(tip), colour))
    return points
