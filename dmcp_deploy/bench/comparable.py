"""The latency gate against a stored record: whether it compares, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmcp_deploy.bench.artifacts import Artifact
from dmcp_deploy.bench.decision import decide_unpaired
from dmcp_deploy.bench.gate import GateResult, GateRow
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import first_gpu, read_environment
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import WALL

#: Fields of the environment that make the device.
_DEVICE = ("machine", "cpu", "cores")
#: Fields that records of the first release lack: they are compared only where both have them.
_LATER = ("power_mode", "precision")


#: What two records must have in common: whether networks drove one another from the caches.
_ORDER = "order of calls"


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
        options: How to measure; batch sizes and threads as for the record. Networks run alone or in
            turn as they did there, if that is left open.
        progress: Told of every second that has passed.

    Raises:
        NotComparableError: Another device, runtime, precision, timing, input shape, number of
            threads, other networks or batch sizes.
        DmcpError: As `measure_artifacts` does.
    """
    if options.alone is None:
        options = replace(options, alone=baseline.alone)
    _check_asked(baseline, read_environment(devices=True), list(artifacts), options)
    now = measure_artifacts(artifacts, options, progress=progress)
    return compare_with_baseline(baseline, now, limit)


def compare_with_baseline(baseline: BenchRecord, now: BenchRecord, limit: float) -> GateResult:
    """Returns whether the networks of a record are slower than those of an older one.

    Raises:
        NotComparableError: See `gate_baseline`.
    """
    _refuse_differences(_setting(baseline), _setting(now))
    before = {(item.name, item.batch): item for item in baseline.measured}
    rows = []
    for item in now.measured:
        old = before[item.name, item.batch]
        decision = decide_unpaired(old.samples_ms, item.samples_ms, limit)
        rows.append(GateRow(item.name, item.batch, old.median_ms, item.median_ms, decision))
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
        _ORDER: _order(bool(options.alone)),
    }
    _refuse_differences(before, asked)


def _changes_between(baseline: BenchRecord, now: BenchRecord) -> list[str]:
    """Returns what may explain a difference: versions and settings that are not the same."""
    before, after = _changeable(baseline), _changeable(now)
    return [
        f"{name}: {before.get(name)} then, {after.get(name)} now"
        for name in sorted({*before, *after}, key=lambda name: (name == "runtime", name))
        if before.get(name) != after.get(name)
    ]


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
        _ORDER: _order(record.alone),
    }


def _order(alone: bool) -> str:
    """Returns in which order networks were called, in words."""
    return "each alone" if alone else "in turn"


def _device(environment: Mapping[str, Any], measured: Iterable[Measured]) -> dict[str, Any]:
    """Returns what makes the device: the GPU only where something ran on it."""
    device = {key: environment.get(key) for key in (*_DEVICE, "power_mode")}
    if any(item.timing != WALL for item in measured):
        device["GPU"] = first_gpu(environment)
    return device


def _refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differences = [
        f"{key.replace('_', ' ')} was {_show(before.get(key))} and is {_show(value)}"
        for key, value in now.items()
        if before.get(key) != value and not (key in _LATER and not (before.get(key) and value))
    ]
    if differences:
        raise NotComparableError(
            f"Not comparable with the baseline: {', '.join(differences)}; measure as the baseline"
            " was, or save a new one with --save."
        )


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)


#: Settings of the machine that may change: a note names those that did.
_CHANGEABLE = ("governor", "cpu_quota", "gpu_driver", "cuda", "pinned_cores")


def _changeable(record: BenchRecord) -> dict[str, Any]:
    libraries = record.environment.get("libraries")
    known = dict(libraries) if isinstance(libraries, Mapping) else {}
    settings = {key: record.environment.get(key) for key in _CHANGEABLE}
    runtimes = ", ".join(dict.fromkeys(item.runtime for item in record.measured))
    return {**known, **settings, "runtime": runtimes}


def _without_version(runtime: str) -> str:
    """Returns "tensorrt fp16" of "tensorrt 10.3.0 fp16": a new version is what a gate watches."""
    return " ".join(word for word in runtime.split() if not word[0].isdigit())
