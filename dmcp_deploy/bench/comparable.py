"""The latency gate against a stored record: whether it compares, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcp_deploy.bench.artifacts import Artifact
from dmcp_deploy.bench.decision import decide_unpaired
from dmcp_deploy.bench.gate import GateResult, GateRow
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import WALL

#: Fields of the environment that make the device.
_DEVICE = ("machine", "cpu", "cores")
#: Those that records of the first release lack: they differ only where both records have them.
_LATER = ("power_mode", "precision")


class NotComparableError(DmcpError):
    """Two records that say nothing about one another, and what differs."""


def gate_baseline(
    artifacts: Mapping[str, Path | Artifact],
    baseline: BenchRecord,
    limit: float,
    options: BenchOptions,
    *,
    progress: Progress = NO_PROGRESS,
) -> GateResult:
    """Returns whether networks are slower than a stored record says they were.

    Args:
        artifacts: Name -> ONNX file, engine or artifact; the names are the record's.
        baseline: The stored record.
        limit: Slowdown that is allowed: 0.05 for 5%.
        options: How to measure; batch sizes and threads as for the record.
        progress: Told of every second that has passed.

    Raises:
        NotComparableError: Another device, runtime, precision, timing, input shape, number of
            threads, other networks or batch sizes.
        DmcpError: As `measure_artifacts` does.
    """
    _check_asked(baseline, read_environment(devices=True), list(artifacts), options)
    now = measure_artifacts(artifacts, options, progress=progress)
    return compare_with_baseline(baseline, now, limit)


def compare_with_baseline(baseline: BenchRecord, now: BenchRecord, limit: float) -> GateResult:
    """Returns whether the networks of a record are slower than those of an older one.

    Raises:
        NotComparableError: See `gate_baseline`.
    """
    _check_comparable(baseline, now)
    before = {(item.name, item.batch): item for item in baseline.measured}
    rows = [_compare(before[item.name, item.batch], item, limit) for item in now.measured]
    notes = [
        f"The baseline was taken at {baseline.environment.get('taken_at', 'a time unknown')}: what"
        " the machine drifted since then is part of the ratio; --against OLD measures both now."
    ]
    if changed := _changes_between(baseline, now):
        notes.append(f"Not the same as for the baseline: {'; '.join(changed)}.")
    return GateResult(tuple(rows), limit, tuple(notes), now)


def _check_asked(
    baseline: BenchRecord,
    environment: Mapping[str, Any],
    names: Sequence[str],
    options: BenchOptions,
) -> None:
    """Finds before a measurement that it will not compare with a baseline.

    Raises:
        NotComparableError: It will not, and what differs.
    """
    before = _setting(baseline)
    asked = {
        **_device(environment, baseline.measured),
        "networks": sorted(names),
        "batches": sorted(set(options.batches)),
        "threads": [options.threads],
    }
    _refuse_differences(before, asked)


def _check_comparable(baseline: BenchRecord, now: BenchRecord) -> None:
    """Finds that a measurement does not compare with a baseline.

    Raises:
        NotComparableError: See `gate_baseline`.
    """
    _refuse_differences(_setting(baseline), _setting(now))


def _changes_between(baseline: BenchRecord, now: BenchRecord) -> list[str]:
    """Returns what may explain a difference: versions and settings that are not the same."""
    before, after = (_changeable(record.environment) for record in (baseline, now))
    versions = [_versions(record.measured) for record in (baseline, now)]
    return [
        f"{key}: {old} then, {new} now"
        for key, old, new in (
            *((key, before.get(key), after.get(key)) for key in sorted({*before, *after})),
            ("runtime", *versions),
        )
        if old != new
    ]


def _compare(before: Measured, now: Measured, limit: float) -> GateRow:
    decision = decide_unpaired(before.samples_ms, now.samples_ms, limit)
    return GateRow(now.name, now.batch, before.median_ms, now.median_ms, decision)


def _setting(record: BenchRecord) -> dict[str, Any]:
    """Returns what two records must have in common."""
    return {
        **_device(record.environment, record.measured),
        "networks": sorted({item.name for item in record.measured}),
        "batches": sorted(record.batches),
        "number of rows": len(record.measured),
        "threads": sorted({item.threads for item in record.measured}),
        "runtime": sorted({_without_version(item.runtime) for item in record.measured}),
        "precision": sorted({item.precision for item in record.measured if item.precision}),
        "timing": sorted({item.timing for item in record.measured}),
        "input shape": list(record.input_shape),
    }


def _device(environment: Mapping[str, Any], measured: Iterable[Measured]) -> dict[str, Any]:
    """Returns what makes the device: the GPU only where something ran on it."""
    device = {key: environment.get(key) for key in (*_DEVICE, "power_mode")}
    if any(item.timing != WALL for item in measured):
        device["GPU"] = _first_gpu(environment)
    return device


def _first_gpu(environment: Mapping[str, Any]) -> str | None:
    """Returns the GPU that CUDA takes first; None where a record does not tell."""
    gpus = environment.get("gpus")
    first = gpus[0] if isinstance(gpus, list) and gpus else None
    return str(first.get("name")) if isinstance(first, Mapping) else None


def _refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [
        f"{key.replace('_', ' ')} was {_show(before.get(key))} and is {_show(value)}"
        for key, value in now.items()
        if before.get(key) != value and not (key in _LATER and not (before.get(key) and value))
    ]
    if different:
        raise NotComparableError(
            f"Not comparable with the baseline: {', '.join(different)}; measure as the baseline"
            " was, or save a new one with --save."
        )


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)


#: Settings of the machine that are told where they are not the same.
_CHANGEABLE = ("governor", "gpu_driver", "cuda", "pinned_cores")


def _changeable(environment: Mapping[str, Any]) -> dict[str, Any]:
    libraries = environment.get("libraries")
    known = dict(libraries) if isinstance(libraries, Mapping) else {}
    return {**known, **{key: environment.get(key) for key in _CHANGEABLE}}


def _versions(measured: Iterable[Measured]) -> str:
    return ", ".join(dict.fromkeys(item.runtime for item in measured))


def _without_version(runtime: str) -> str:
    """Returns "tensorrt fp16" of "tensorrt 10.3.0 fp16": a new version is what a gate watches."""
    return " ".join(word for word in runtime.split() if not word[0].isdigit())
