"""Warm-up and samples of several calls, interleaved."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import Sampler, by_wall

_ORDER_SEED = 0
_LEAST_WARMUPS = 2


def time_interleaved(
    calls: Mapping[str, Callable[[], object] | Sampler],
    *,
    seconds: float,
    warmup_s: float = 1.0,
    before: int = 0,
    title: str = "measure",
    progress: Progress = NO_PROGRESS,
) -> dict[str, list[float]]:
    """Returns all samples of every call, in milliseconds; sample i of each is from round i.

    A round makes every call once. Rounds come in pairs, the second in the reverse order of the
    first, and every other pair is turned round: A B, B A, then B A, A B. What a call gains or
    loses by its place or by its predecessor so cancels. After these four the order is shuffled,
    from a fixed seed. At least one pair is measured.

    Args:
        calls: Name -> what is timed by the host's clock, or what times itself.
        seconds: Measuring time over all calls, the warm-up apart; the last pair is finished.
        warmup_s: Warm-up time over all calls; each is made twice at least.
        before: Calls right before each sample that are none themselves: behind them a network finds
            its weights in the caches, as it does where it runs alone.
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
    takes = {
        name: (call if isinstance(call, Sampler) else by_wall(call)).sample_ms
        for name, call in calls.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with _no_garbage_collection():
        warm_up(takes.values(), warmup_s)
        for order in _rounds(list(calls), seconds, title, progress):
            for name in order:
                for _ in range(before):
                    takes[name]()
                samples[name].append(takes[name]())
    return samples


def is_turned(number: int) -> bool:
    """Returns whether a number of the Thue-Morse sequence 0, 1, 1, 0, 1, 0, 0, 1, ... is 1."""
    return bin(number).count("1") % 2 == 1


def warm_up(calls: Collection[Callable[[], object]], seconds: float) -> None:
    """Makes all calls in turn until the time is over, and twice at least."""
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < _LEAST_WARMUPS or time.perf_counter() < end:
        for call in calls:
            call()
        rounds += 1


def _rounds(
    names: list[str], seconds: float, title: str, progress: Progress
) -> Iterator[list[str]]:
    """Yields the order of each round until the time is over, in pairs."""
    rng = Random(_ORDER_SEED)
    pair = 0
    total, told = math.ceil(seconds), 0
    start = time.perf_counter()
    with progress.task(title, total=total, unit="s") as bar:
        elapsed = 0.0
        while elapsed < seconds:
            if pair % 2:
                names.reverse()
            else:
                rng.shuffle(names)
            pair += 1
            yield list(names)
            yield names[::-1]
            elapsed = time.perf_counter() - start
            while told < total and (told + 1 <= elapsed or elapsed >= seconds):
                told += 1
                bar.advance()


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
