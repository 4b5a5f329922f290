from __future__ import annotations

import functools
import gc
import itertools
import statistics
import time
from contextlib import contextmanager

import pytest

from dmcp_deploy.bench.timing import time_interleaved
from dmcp_deploy.errors import DmcpError


def test_samples_are_the_milliseconds_a_call_takes():
    calls = {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)}
    samples = time_interleaved(calls, seconds=0.3, warmup_s=0.0)
    assert list(samples) == ["short", "long"]
    assert min(samples["short"]) >= 2
    assert min(samples["long"]) >= 6
    assert statistics.median(samples["long"]) > 2 * statistics.median(samples["short"])


def test_every_round_makes_every_call_once_and_places_cancel():
    made: list[str] = []
    names = ["a", "b", "c"]
    samples = time_interleaved(
        {name: lambda name=name: made.append(name) for name in names}, seconds=0.2, warmup_s=0.0
    )
    count = len(samples["a"])
    measured = made[len(made) - 3 * count :]
    rounds = [measured[i : i + 3] for i in range(0, len(measured), 3)]
    assert len(rounds) == count == len(samples["b"]) == len(samples["c"])
    assert count > 100
    assert count % 2 == 0
    assert all(sorted(order) == names for order in rounds)
    assert all(rounds[i] == rounds[i + 1][::-1] for i in range(0, count, 2))
    assert all(rounds[i] == rounds[i + 3] for i in range(0, count - 3, 4))
    assert len({tuple(order) for order in rounds}) == 6


def test_the_warm_up_is_apart_and_lasts_as_asked():
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        time.sleep(0.001)

    start = time.perf_counter()
    samples = time_interleaved({"a": call}, seconds=0.01, warmup_s=0.2)
    assert time.perf_counter() - start >= 0.21
    assert count - len(samples["a"]) > 50
    assert len(samples["a"]) < 50


def test_slow_calls_are_measured_in_one_pair_of_rounds_at_least():
    samples = time_interleaved({"a": lambda: time.sleep(0.02)}, seconds=1e-6, warmup_s=0.0)
    assert len(samples["a"]) == 2


def test_the_garbage_collector_is_off_meanwhile_and_on_again_even_after_a_failure():
    seen = []
    time_interleaved({"a": lambda: seen.append(gc.isenabled())}, seconds=1e-6, warmup_s=0.0)
    assert set(seen) == {False}
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"a": lambda: 1 / 0}, seconds=1.0)
    assert gc.isenabled()


class _Counted:
    def __init__(self) -> None:
        self.titles: list[str] = []
        self.totals: list[int] = []
        self.steps = 0

    @contextmanager
    def task(self, title, total, done=0, unit="step"):
        self.titles.append(title)
        self.totals.append(total)
        yield self

    def advance(self, **figures):
        self.steps += 1

    def say(self, text):
        raise AssertionError(text)


@pytest.mark.parametrize(("seconds", "total"), [(0.05, 1), (1.2, 2)])
def test_progress_ends_at_its_total(seconds, total):
    progress = _Counted()
    time_interleaved(
        {"a": lambda: time.sleep(0.01)},
        seconds=seconds,
        warmup_s=0.0,
        title="batch 1",
        progress=progress,
    )
    assert (progress.titles, progress.totals, progress.steps) == (["batch 1"], [total], total)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_not_above_zero_is_refused(seconds):
    with pytest.raises(DmcpError, match="measuring time"):
        time_interleaved({"a": lambda: None}, seconds=seconds)


def test_nothing_to_measure_is_refused():
    with pytest.raises(DmcpError, match="nothing to measure"):
        time_interleaved({}, seconds=1.0)


def test_each_sample_comes_behind_calls_that_are_none():
    made = []
    calls = {name: functools.partial(made.append, name) for name in "ab"}
    samples = time_interleaved(calls, seconds=1e-9, warmup_s=0.0, before=2)
    assert {name: len(values) for name, values in samples.items()} == {"a": 2, "b": 2}
    runs = ["".join(run) for _, run in itertools.groupby(made[4:])]
    assert {name: sum(run.count(name) for run in runs) for name in "ab"} == {"a": 6, "b": 6}
    assert all(len(run) % 3 == 0 for run in runs)
