"""Latency tables and predictions as text."""

from __future__ import annotations

from collections.abc import Sequence

from dmcp_deploy.bench.tables.model import latency_model
from dmcp_deploy.bench.tables.predict import LayerPrediction, Prediction
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.text_table import columns


def format_table(table: LatencyTable) -> str:
    """Returns what a table holds, in a few lines."""
    model = latency_model(table)
    plans = f" and {len(table.plans)} whole plans" if table.plans else ""
    return (
        f"{table.network.model}: {len(table.layers)} layers in {len(table.widths)} probe networks"
        f"{plans}; the full network takes {model.full_ms:.3f} ms\n"
        f"{_conditions(table, model.error_share)}"
    )


def format_predictions(
    table: LatencyTable, predictions: Sequence[Prediction], with_layers: bool = False
) -> str:
    """Returns predictions as text, with their layers on demand."""
    head = ("network", "latency ms", "+-", "of full", "undisturbed ms", "outside layers ms")
    parts = [columns([head, *map(_row, predictions)], right=(1, 2, 3, 4, 5))]
    if with_layers:
        parts += [f"\n{item.name}\n{_layers(item.layers)}" for item in predictions]
    parts += [_outside(item) for item in predictions if item.outside]
    return "\n".join([*parts, _conditions(table, predictions[0].error_share)])


def _row(item: Prediction) -> tuple[str, ...]:
    return (
        item.name,
        f"{item.latency_ms:.3f}",
        f"{item.error_ms:.3f}",
        f"{item.latency_ms / item.full_ms:.1%}",
        f"{item.undisturbed_ms:.3f}",
        f"{item.overhead_ms:.3f}",
    )


def _layers(layers: Sequence[LayerPrediction]) -> str:
    rows = [["layer", "in", "out", "ms"]]
    for layer in layers:
        channels = str(layer.in_channels), str(layer.out_channels)
        rows.append([layer.name, *channels, f"{layer.ms:.4f}"])
    return columns(rows, right=(1, 2, 3))


def _outside(item: Prediction) -> str:
    shown = ", ".join(item.outside[:3]) + (", ..." if len(item.outside) > 3 else "")
    return f"{item.name}: narrower or wider than any probe, so less certain: {shown}"


def _conditions(table: LatencyTable, error_share: float) -> str:
    setting = table.setting
    threads = f", {setting.threads} thread(s)" if setting.threads else ""
    return (
        f"{table.device}, {table.ran_by}{threads}, batch {setting.batch}; 90% of networks that"
        f" were left out are within {error_share:.1%}"
    )
