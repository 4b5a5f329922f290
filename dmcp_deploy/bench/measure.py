"""Latency of ONNX files, engines and networks, measured interleaved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from dmcp_deploy.bench.artifacts import Artifact, as_artifact
from dmcp_deploy.bench.lineup import Image, Lineup
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.bench.timing import is_turned, time_interleaved
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import Clock

_LOADS = 4

#: Calls before a sample of a network that is to run as it does alone: the first loads what the
#: others have driven from the caches.
_ALONE = 2


def measure_artifacts(
    artifacts: Mapping[str, Path | Artifact],
    options: BenchOptions,
    *,
    warmup_s: float = 1.0,
    progress: Progress = NO_PROGRESS,
) -> BenchRecord:
    """Returns the latency record of networks run in interleaved rounds.

    Args:
        artifacts: Name -> ONNX file, engine, or what else can be measured; the others are
            compared with the first.
        options: How to measure; the seconds are over all files, the warm-up apart.
        warmup_s: Warm-up time for each batch size, over all files.
        progress: Told of every second that has passed.

    Raises:
        DmcpError: Nothing to measure, a missing library or file, files with different inputs, or
            a batch size that a file does not take: all found before the first measurement. A
            network fails while it runs.
    """
    lineup = line_up(artifacts, options)
    ready = lineup.check(options.batches)
    time_part = functools.partial(
        time_interleaved,
        seconds=options.seconds / _LOADS,
        warmup_s=warmup_s / _LOADS,
        before=_ALONE if options.alone else 0,
        progress=progress,
    )
    with lineup.watched(ready, options.batches) as environment:
        measured = [
            item
            for batch in dict.fromkeys(options.batches)
            for item in ready.measured(batch, _time(lineup, ready.image, batch, time_part))
        ]
    return BenchRecord(tuple(measured), environment, ready.image, bool(options.alone))


def line_up(artifacts: Mapping[str, Path | Artifact], options: BenchOptions) -> Lineup:
    """Returns the networks of a measurement, of which none is opened yet.

    Raises:
        DmcpError: There is nothing to measure, or a graph and transfers are asked for at once.
    """
    if not artifacts:
        raise DmcpError("There is nothing to measure: give at least one ONNX file.")
    threads, clock = options.threads, Clock(options.graph, options.transfers)
    known = {name: as_artifact(item, options.runtime, threads) for name, item in artifacts.items()}
    return Lineup(known, threads, clock)


def _time(
    lineup: Lineup, image: Image, batch: int, time_part: Callable[..., dict[str, list[float]]]
) -> dict[str, list[float]]:
    """Returns the samples of every network at one batch size, over several loads of all.

    Of two loads of one small network the later runs up to 3% faster for as long as it stays
    loaded, by where its memory lies; the order of loading therefore turns round every time.
    """
    samples: dict[str, list[float]] = {}
    for load in range(_LOADS):
        with lineup.opened(image, batch, last_first=is_turned(load)) as samplers:
            part = time_part(samplers, title=f"batch {batch}, part {load + 1} of {_LOADS}")
        for name, samples_ms in part.items():
            samples.setdefault(name, []).extend(samples_ms)
    return samples
