"""Latency of ONNX files, engines and networks, measured interleaved."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from dmcp_deploy.bench.artifacts import Artifact, as_artifact
from dmcp_deploy.bench.lineup import Image, Lineup
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.bench.timing import is_turned, time_interleaved
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import Clock

_LOADS = 4


def measure_artifacts(
    artifacts: Mapping[str, Path | Artifact],
    *,
    batches: Sequence[int],
    threads: int,
    runtime: str = "onnxruntime",
    seconds: float,
    warmup_s: float = 1.0,
    graph: bool | None = None,
    transfers: bool = False,
    progress: Progress = NO_PROGRESS,
) -> BenchRecord:
    """Returns the latency record of networks run in interleaved rounds.

    Args:
        artifacts: Name -> ONNX file, engine, or what else can be measured; the others are
            compared with the first.
        batches: Images per call; every file must take all of them.
        threads: Threads on a CPU, each pinned with a core; 0 leaves both to the runtime.
        runtime: What runs ONNX files: "onnxruntime" or "openvino".
        seconds: Measuring time for each batch size, over all files, the warm-up apart.
        warmup_s: Warm-up time for each batch size, over all files.
        graph: Whether a GPU runs a CUDA graph; None for engines where the CUDA library can.
        transfers: Whether a GPU's images and logits are copied within the time.
        progress: Told of every second that has passed.

    Raises:
        DmcpError: Nothing to measure, a bad number, a missing library or file, files with
            different inputs, or a batch size that a file does not take: all found before the
            first measurement. A network fails while it runs.
    """
    check_request(artifacts, batches, seconds)
    lineup = line_up(artifacts, runtime, threads, graph, transfers)
    ready = lineup.check(batches)
    time_part = functools.partial(
        time_interleaved, seconds=seconds / _LOADS, warmup_s=warmup_s / _LOADS, progress=progress
    )
    with lineup.watched(ready, batches) as environment:
        measured = [
            item
            for batch in dict.fromkeys(batches)
            for item in ready.measured(batch, _time(lineup, ready.image, batch, time_part))
        ]
    return BenchRecord(tuple(measured), environment, ready.image)


def line_up(
    artifacts: Mapping[str, Path | Artifact],
    runtime: str,
    threads: int,
    graph: bool | None,
    transfers: bool,
) -> Lineup:
    """Returns the networks of a measurement, of which none is opened yet.

    Raises:
        DmcpError: A graph and transfers are asked for at once.
    """
    known = {name: as_artifact(item, runtime, threads) for name, item in artifacts.items()}
    return Lineup(known, threads, Clock(graph, transfers))


def check_request(artifacts: Collection[object], batches: Sequence[int], seconds: float) -> None:
    """Checks what is asked of a measurement.

    Raises:
        DmcpError: There is nothing to measure, or a number makes no sense.
    """
    if not artifacts:
        raise DmcpError("There is nothing to measure: give at least one ONNX file.")
    if not batches or min(batches) < 1:
        raise DmcpError(f"The batch sizes are {list(batches)}: give at least one, each 1 or more.")
    if not (math.isfinite(seconds) and seconds > 0):
        raise DmcpError(f"The measuring time is {seconds} s and must be above zero.")


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
