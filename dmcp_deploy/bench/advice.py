"""What to do about a measurement that is too noisy, from what was found on the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.machine.gpu_state import THERMAL

#: A clock that changed by more than this between beginning and end is named.
MOST_CLOCK_CHANGE = 0.05
#: Other work may take this much of a core before it is named.
_SPARE_LOAD = 0.5


def noise_advice(record: BenchRecord) -> str:
    """Returns one sentence: what was found that may have disturbed a measurement, what to do."""
    findings = list(_findings(record))
    if not findings:
        return (
            "Too noisy to tell: allow more --seconds, or stop what else runs on the machine; a"
            " ratio very near the limit stays so."
        )
    causes, remedies = (", ".join(dict.fromkeys(words)) for words in zip(*findings, strict=True))
    return f"Too noisy to tell: {causes}; {remedies}, or allow more --seconds."


def _findings(record: BenchRecord) -> Iterator[tuple[str, str]]:
    """Yields what may have disturbed the measurement, and what helps."""
    environment = record.environment
    before, after = (_part(environment, name) for name in ("before", "after"))
    yield from _quota(before, after)
    yield from _load(before or environment, environment, record)
    governor = (before or environment).get("governor")
    if governor not in (None, "performance"):
        yield f"the CPU governor is {governor}", "sudo cpupower frequency-set -g performance"
    yield from _clocks(before, after)
    yield from _heat(before, after)
    mode = str(before.get("power_mode") or "MAXN")
    if _part(environment, "board") and not mode.startswith("MAXN"):
        yield f"the power mode is {mode}", "set it to MAXN, then sudo jetson_clocks"


def _quota(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    periods, throttled = (
        (_number(after, name) or 0) - (_number(before, name) or 0)
        for name in ("cpu_periods", "cpu_throttled")
    )
    quota = _number(after, "cpu_quota")
    if quota is not None and throttled > 0:
        yield (
            f"the CPU quota of {quota:g} cores stopped this process in {throttled:g} of"
            f" {periods:g} periods",
            "raise the container's or job's CPU limit (docker --cpus, Kubernetes limits.cpu,"
            " systemd CPUQuota) or measure with fewer --threads",
        )


def _load(
    before: Mapping[str, Any], environment: Mapping[str, Any], record: BenchRecord
) -> Iterator[tuple[str, str]]:
    loads, cores = before.get("load_average"), _number(environment, "cores")
    load = _number(dict(enumerate(loads)), 0) if isinstance(loads, list) else None
    if load is None or cores is None:
        return
    wanted = max(1, *(item.threads for item in record.measured))
    if load + wanted > cores + _SPARE_LOAD:
        plural = "s" if cores > 1 else ""
        cause = f"the load average was {load:g} on {cores:g} core{plural} as it began"
        yield cause, "stop what else runs on the machine"


def _clocks(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    gpu = _part(before, "gpu"), _part(after, "gpu")
    for what, states, key, remedy in (
        ("CPU clock", (before, after), "cpu_mhz", "keep the CPU's clock fixed"),
        ("GPU's SM clock", gpu, "sm_mhz", "fix it with sudo nvidia-smi -lgc or jetson_clocks"),
        ("GPU's memory clock", gpu, "memory_mhz", "fix it with sudo nvidia-smi -lmc"),
    ):
        old, new = (_number(state, key) for state in states)
        # Under another governor the clock follows the load, and the governor is named already.
        if key == "cpu_mhz" and before.get("governor") != "performance":
            continue
        if old and new and abs(new / old - 1) > MOST_CLOCK_CHANGE:
            yield f"the {what} went from {old:g} to {new:g} MHz", remedy


def _heat(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cool = "let it cool, or lower its clocks"
    first, last = (_number(state, "cpu_slowdowns") for state in (before, after))
    if first is not None and last is not None and first != last:
        yield "heat slowed the CPU down", cool
    gpu = _part(before, "gpu"), _part(after, "gpu")
    reasons = {str(reason) for state in gpu for reason in state.get("slowed_by") or ()}
    if THERMAL in reasons:
        hot = _number(gpu[1], "temperature_c")
        degrees = "" if hot is None else f" at {hot:g} °C"
        yield f"heat slowed the GPU down{degrees}", cool
    for reason in sorted(reasons - {THERMAL}):
        yield f"the GPU was held back by its {reason}", "see nvidia-smi -q -d PERFORMANCE"


def _number(content: Mapping[Any, Any], name: object) -> float | None:
    value = content.get(name)
    return float(value) if isinstance(value, (int, float)) else None


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a part of an environment; an empty one where an older record has none."""
    part = content.get(name)
    return part if isinstance(part, Mapping) else {}
