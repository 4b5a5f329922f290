"""Warm-up and samples of several calls, interleaved."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from random import Random

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress

_ORDER_SEED = 0
_LEAST_WARMUPS = 2


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    warmup_s: float = 1.0,
    title: str = "measure",
    progress: Progress = NO_PROGRESS,
) -> dict[str, list[float]]:
    """Returns all samples of every call, in milliseconds; sample i of each is from round i.

    A round makes every call once. Rounds come in pairs, the second in the reverse order of the
    first and each pair in an order shuffled from a fixed seed, so that what a call gains or loses
    by its place or by its predecessor cancels. At least one pair is measured.

    Args:
        calls: Name -> what is timed.
        seconds: Measuring time over all calls, the warm-up apart; the last pair is finished.
        warmup_s: Warm-up time over all calls; each is made twice at least.
        title: What the progress is called.
        progress: Told of every second that has passed.

    Raises:
        DmcpError: There is no call, or a time is not positive.
    """
    if not calls:
        raise DmcpError("There is nothing to measure: give at least one call.")
    if not (math.isfinite(seconds) and seconds > 0 and math.isfinite(warmup_s) and warmup_s >= 0):
        raise DmcpError(
            f"The measuring time is {seconds} s and the warm-up {warmup_s} s:"
            " the first must be above zero and the second not below."
        )
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with _no_garbage_collection():
        _warm_up(calls, warmup_s)
        for order in _rounds(list(calls), seconds, title, progress):
            for name in order:
                samples[name].append(_time_ms(calls[name]))
    return samples


def _warm_up(calls: Mapping[str, Callable[[], object]], warmup_s: float) -> None:
    end = time.perf_counter() + warmup_s
    made = 0
    while made < _LEAST_WARMUPS or time.perf_counter() < end:
        for call in calls.values():
            call()
        made += 1


def _rounds(
    names: list[str], seconds: float, title: str, progress: Progress
) -> Iterator[list[str]]:
    """Yields the order of each round until the time is over, in pairs."""
    rng = Random(_ORDER_SEED)
    whole = math.ceil(seconds)
    told = 0
    start = time.perf_counter()
    with progress.task(title, total=whole, unit="s") as bar:
        elapsed = 0.0
        while elapsed < seconds:
            rng.shuffle(names)
            yield list(names)
            yield names[::-1]
            elapsed = time.perf_counter() - start
            while told < whole and (told + 1 <= elapsed or elapsed >= seconds):
                told += 1
                bar.advance()


def _time_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python's cyclic collector from running inside a sample."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
