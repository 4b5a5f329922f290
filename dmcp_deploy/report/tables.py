"""What a run has reached, as tables that the page and the Markdown share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmcp_deploy.bench.record import BenchRecord, Comparison, Measured, compared
from dmcp_deploy.data.input_record import InputRecord
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import Table
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.units import format_bytes, format_macs


def groups_table(plan: ChannelPlan) -> Table:
    """Returns the channels that every group keeps."""
    rows: list[tuple[str, ...]] = [("group", "original", "kept", "share")]
    rows += [
        (name, str(keep.size), str(keep.width), f"{keep.width / keep.size:.1%}")
        for name, keep in plan.groups.items()
    ]
    head, *cells = [(*row, *step) for row, step in zip(rows, plan.step_column(), strict=True)]
    return Table("Channels kept per group", head, tuple(cells))


def accuracy_table(facts: RunFacts) -> Table:
    """Returns the accuracies on the validation images."""
    rows = [
        (
            *(item.network.value, f"{item.top1:.2%}", f"{item.loss:.4f}"),
            *(str(item.images), str(item.image_size)),
        )
        for item in facts.accuracies
    ]
    if facts.majority_share is not None:
        rows.append(("always the most frequent class", f"{facts.majority_share:.2%}", "", "", ""))
    head = ("network", "top-1", "loss", "images", "side in px")
    return Table("Accuracy on the validation images", head, tuple(rows))


def bench_table(record: BenchRecord) -> Table:
    """Returns all that was measured; ratios are to the first network."""
    head = (
        *("network", "batch", "runtime", "MACs", "params", "median ms", "p99 ms", "images/s"),
        *("FLOPs ratio", "latency ratio", "95% interval", "efficiency", "verdict"),
    )
    rows = ((*_measured(item), *_ratios(to_first)) for item, to_first in compared(record))
    return Table("Latency", head, tuple(rows))


def parity_table(facts: RunFacts) -> Table:
    """Returns how equal the forms of the network are, and what lower precisions cost."""
    head = ("compared", "largest error", "relative", "same answer", "SNR", "top-1", "images")
    rows = [
        (
            item.what,
            f"{item.max_abs:.2e}",
            f"{item.max_rel:.2e}",
            f"{item.top1_agreement:.2%}",
            "" if item.snr_db is None else f"{item.snr_db:.1f} dB",
            "" if item.top1 is None else f"{item.top1:.2%}",
            "" if item.images is None else str(item.images),
        )
        for item in facts.parities
    ]
    rows += [
        (f"{name}: {reason}", "", "", "", "", "", "") for name, reason in facts.unjudged.items()
    ]
    return Table("Parity and precision", head, tuple(rows))


def engines_table(engines: Sequence[EngineRecord]) -> Table:
    """Returns the engines with their layers per precision and their bytes."""
    head = (
        *("precision", "batch", "runtime", "built for", "layers", "weights", "engine"),
        *("activations", "build s", "warnings", "file"),
    )
    return Table("Engines", head, tuple(_engine(item) for item in engines))


def input_table(fed: InputRecord) -> Table:
    """Returns what to do with a picture before the network reads it, and what its logits mean."""
    rows = [*fed.steps(), ("logits", ", ".join(fed.classes))]
    return Table("What to feed", ("step", "what"), tuple(rows))


def environment_table(facts: RunFacts) -> Table:
    """Returns the machine and the libraries of the run, and of its measurement."""
    rows = [("run: versions", brief(facts.versions))]
    if facts.bench is not None:
        rows += [
            (f"measurement: {name.replace('_', ' ')}", brief(value))
            for name, value in facts.bench.environment.items()
            if value is not None
        ]
    return Table("Environment", ("of", "value"), tuple(rows))


def request_table(facts: RunFacts) -> Table:
    """Returns what was asked of the run, and the seconds that each stage took."""
    content = {key: value for key, value in facts.request.to_json().items() if key != "recipe"}
    rows = [("asked", *pair) for pair in _leaves("", content)]
    rows += [("seconds", stage, f"{s:.2f}") for stage, s in facts.stage_seconds.items()]
    return Table("Settings and stages", ("of", "what", "value"), tuple(rows))


def _measured(item: Measured) -> tuple[str, ...]:
    return (
        item.name,
        str(item.batch),
        item.runtime,
        format_macs(item.macs),
        format_macs(item.params),
        f"{item.median_ms:.3f}",
        f"{item.p99_ms:.3f}",
        f"{item.throughput_per_s:.1f}",
    )


def _ratios(to_first: Comparison | None) -> tuple[str, ...]:
    if to_first is None:
        return ("1.00", "1.00", "", "1.00", "reference")
    return (
        f"{to_first.flops_ratio:.3f}",
        f"{to_first.latency_ratio:.3f}",
        f"{to_first.latency_low:.3f} to {to_first.latency_high:.3f}",
        f"{to_first.efficiency:.3f}",
        to_first.verdict,
    )


def _engine(item: EngineRecord) -> tuple[str, ...]:
    low, _, high = item.batches
    return (
        item.precision,
        str(low) if low == high else "-".join(map(str, item.batches)),
        f"{item.runtime} {item.runtime_version}",
        ", ".join(item.targets) or str((item.gpu or {}).get("name", "this GPU")),
        ", ".join(f"{count} {name}" for name, count in item.layer_precisions.items()),
        "" if item.weight_bytes is None else format_bytes(item.weight_bytes),
        format_bytes(item.engine_bytes),
        "" if item.activation_bytes is None else format_bytes(item.activation_bytes),
        f"{item.build_s:.2f}",
        str(len(item.warnings)),
        item.engine,
    )


def brief(value: Any) -> str:
    """Returns JSON values on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {brief(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yields the values in nested JSON objects, each under its dotted name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), item)
    elif value is not None:
        yield name, brief(value)
