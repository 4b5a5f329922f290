"""What is said where a measurement is too noisy: what was found on the machine, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from dmcp_deploy.bench.advice import noise_advice
from dmcp_deploy.bench.columns import format_table
from dmcp_deploy.bench.record import BenchRecord, Measured

NET = Measured(
    name="net",
    path="net.onnx",
    digest="sha256:aa",
    macs=1000,
    params=10,
    batch=1,
    runtime="onnxruntime",
    threads=1,
    samples_ms=(1.0, 2.0),
)
QUIET = {"load_average": [0.1, 0.1, 0.1], "governor": "performance", "cpu_mhz": 3000}


def record(before: object = None, after: object = None, **environment: Any) -> BenchRecord:
    states = {"before": before or QUIET, "after": after or before or QUIET}
    return BenchRecord((NET,), {"cores": 4, **states, **environment}, (3, 8, 8))


def gpu(**state: Any) -> dict[str, Any]:
    return {**QUIET, "gpu": {"sm_mhz": 1980, "memory_mhz": 2619, "temperature_c": 50, **state}}


@pytest.mark.parametrize(
    "found",
    [
        record(),
        BenchRecord((NET,), {}, (3, 8, 8)),
        record(gpu()),
        record({**QUIET, "cpu_quota": 0.5, "cpu_periods": 100, "cpu_throttled": 10}),
    ],
)
def test_where_nothing_is_found_more_time_is_advised(found: BenchRecord) -> None:
    assert noise_advice(found).startswith("Too noisy to tell: allow more --seconds, or stop what")


@pytest.mark.parametrize(
    ("found", "cause", "remedy"),
    [
        (
            record({**QUIET, "load_average": [3.6, 2.0, 1.0]}),
            "the load average was 3.6 on 4 cores as it began",
            "stop what else runs on the machine",
        ),
        (
            record(
                {**QUIET, "cpu_quota": 0.5, "cpu_periods": 100, "cpu_throttled": 10},
                {**QUIET, "cpu_quota": 0.5, "cpu_periods": 164, "cpu_throttled": 69},
            ),
            "the CPU quota of 0.5 cores stopped this process in 59 of 64 periods",
            "raise the container's or job's CPU limit (docker --cpus",
        ),
        (
            record({**QUIET, "governor": "schedutil", "cpu_mhz": 800}, QUIET),
            "the CPU governor is schedutil",
            "sudo cpupower frequency-set -g performance",
        ),
        (
            record(QUIET, {**QUIET, "cpu_mhz": 2800}),
            "the CPU clock went from 3000 to 2800 MHz",
            "keep the CPU's clock fixed",
        ),
        (
            record({**QUIET, "cpu_slowdowns": 3}, {**QUIET, "cpu_slowdowns": 9}),
            "heat slowed the CPU down",
            "let it cool",
        ),
        (
            record(gpu(), gpu(sm_mhz=1410)),
            "the GPU's SM clock went from 1980 to 1410 MHz",
            "fix it with sudo nvidia-smi -lgc",
        ),
        (
            record(gpu(), gpu(slowed_by=["temperature"], temperature_c=88)),
            "heat slowed the GPU down at 88 °C",
            "let it cool",
        ),
        (
            record(gpu(slowed_by=["power cap"])),
            "the GPU was held back by its power cap",
            "see nvidia-smi -q -d PERFORMANCE",
        ),
        (
            record({**QUIET, "power_mode": "15W"}, board={"model": "Jetson"}),
            "the power mode is 15W",
            "set it to MAXN",
        ),
    ],
)
def test_what_was_found_is_named_with_what_helps(
    found: BenchRecord, cause: str, remedy: str
) -> None:
    sentence = noise_advice(found)
    assert sentence.startswith(f"Too noisy to tell: {cause}")
    assert remedy in sentence
    assert sentence.endswith(", or allow more --seconds.")


def test_small_changes_of_clocks_are_none() -> None:
    found = record(gpu(), {**gpu(sm_mhz=1950), "cpu_mhz": 2900})
    assert "went from" not in noise_advice(found)


def test_all_causes_stand_in_one_sentence() -> None:
    before = {**gpu(), "load_average": [9.0, 9.0, 9.0], "governor": "powersave"}
    sentence = noise_advice(record(before, gpu(sm_mhz=900)))
    causes = ("load average was 9", "governor is powersave", "1980 to 900 MHz")
    assert all(cause in sentence for cause in causes)
    assert "\n" not in sentence
    assert ". " not in sentence


@pytest.mark.parametrize(
    "state",
    [
        {"load_average": ["much"], "governor": None, "cpu_mhz": "fast"},
        {"load_average": 3, "gpu": "hot"},
        {"gpu": {"sm_mhz": None, "slowed_by": None}},
    ],
)
def test_a_record_that_was_tampered_with_is_no_reason_to_fail(state: dict[str, Any]) -> None:
    assert noise_advice(record(state)).startswith("Too noisy to tell")
    assert noise_advice(BenchRecord((NET,), {"before": 3, "cores": "two"}, (3, 8, 8)))


def test_the_table_ends_with_the_advice_where_a_verdict_is_noisy() -> None:
    other = Measured(**{**vars(NET), "name": "other", "samples_ms": (1.5, 1.0)})
    noisy = BenchRecord((NET, other), record().environment, (3, 8, 8))
    *_, row, note = format_table(noisy).splitlines()
    assert row.endswith("too noisy to tell")
    assert note == noise_advice(noisy)
    assert "Too noisy" not in format_table(record())
