"""Latency of ONNX files and engines, measured interleaved in one runtime."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.environment import read_environment
from dmcp_deploy.bench.onnx_cost import onnx_cost
from dmcp_deploy.bench.record import BenchRecord, Measured
from dmcp_deploy.bench.timing import time_interleaved
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.session import Session, is_engine, open_session

_IMAGE_SEED = 0
_LOADS = 4

_Opened = Callable[..., contextlib.AbstractContextManager[dict[str, Session]]]


def measure_artifacts(
    artifacts: Mapping[str, Path],
    *,
    batches: Sequence[int],
    threads: int,
    runtime: str = "onnxruntime",
    seconds: float,
    warmup_s: float = 1.0,
    progress: Progress = NO_PROGRESS,
) -> BenchRecord:
    """Returns the latency record of networks run in interleaved rounds.

    Args:
        artifacts: Name -> ONNX file or engine; the others are compared with the first.
        batches: Images per call; every file must take all of them.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        runtime: What runs ONNX files: "onnxruntime" or "openvino".
        seconds: Measuring time for each batch size, over all files, the warm-up apart.
        warmup_s: Warm-up time for each batch size, over all files.
        progress: Told of every second that has passed.

    Raises:
        DmcpError: Nothing to measure, a bad number, a missing library or file, files with
            different inputs, or a batch size that a file does not take: all found before the
            first measurement. A network fails while it runs.
    """
    check_request(artifacts, batches, seconds)
    opened = functools.partial(open_sessions, artifacts, runtime, threads)
    shape, runtimes = check_files(batches, opened)
    known = {
        name: describe(name, Path(path), threads, runtimes[name])
        for name, path in artifacts.items()
    }
    environment = read_environment()
    time_part = functools.partial(
        time_interleaved, seconds=seconds / _LOADS, warmup_s=warmup_s / _LOADS, progress=progress
    )
    measured = [
        Measured(**known[name], batch=batch, samples_ms=tuple(samples))
        for batch in dict.fromkeys(batches)
        for name, samples in _time(opened, (batch, *shape), time_part).items()
    ]
    return BenchRecord(tuple(measured), environment, shape)


def check_request(artifacts: Mapping[str, Path], batches: Sequence[int], seconds: float) -> None:
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


def check_files(
    batches: Sequence[int], opened: _Opened
) -> tuple[tuple[int, int, int], dict[str, str]]:
    """Returns the images' (C, H, W), and what runs each network.

    Every network has been found to take all batch sizes then.
    """
    with opened() as sessions:
        for name, session in sessions.items():
            _check_batches(name, session, batches)
        runtimes = {name: session.runtime for name, session in sessions.items()}
        return _common_shape(sessions), runtimes


def _common_shape(sessions: Mapping[str, Session]) -> tuple[int, int, int]:
    first, *_ = sessions
    for name, session in sessions.items():
        ours, theirs = sessions[first].input_shape[1:], session.input_shape[1:]
        if None in theirs:
            raise DmcpError(
                f"{session.path} leaves the image size open ({list(session.input_shape)}):"
                " export it with a fixed one."
            )
        if ours != theirs:
            raise DmcpError(
                f"{first} takes images of {list(ours)} and {name} of {list(theirs)}: latencies"
                " compare only at one input shape."
            )
    channels, height, width = (int(size or 0) for size in sessions[first].input_shape[1:])
    return channels, height, width


def _check_batches(name: str, session: Session, batches: Sequence[int]) -> None:
    fixed = session.input_shape[0]
    odd = [batch for batch in batches if fixed not in (None, batch)]
    if odd:
        raise DmcpError(
            f"{name} ({session.path}) has the fixed batch size {fixed} and cannot be measured at"
            f" {odd[0]}: measure at {fixed}, or export it with an open batch size."
        )


def describe(name: str, path: Path, threads: int, runtime: str) -> dict[str, Any]:
    """Returns the fields of a `Measured` that do not depend on the measurement.

    Raises:
        DmcpError: The network has no multiply-adds to compare, or cannot be read.
    """
    cost = EngineRecord.load(path) if is_engine(path) else onnx_cost(path)
    if cost.macs < 1:
        raise DmcpError(
            f"{name} ({path}) has no convolution or linear layer, so there are no multiply-adds to"
            " compare."
        )
    return {
        "name": name,
        "path": path.name,
        "digest": digest_file(path),
        "macs": cost.macs,
        "params": cost.params,
        "runtime": runtime,
        "threads": threads,
    }


def _time(
    opened: _Opened,
    shape: tuple[int, int, int, int],
    time_part: Callable[..., dict[str, list[float]]],
) -> dict[str, list[float]]:
    """Returns the samples of every file at one batch size, over several loads of all files.

    Of two loads of one small network the later runs up to 3% faster for as long as it stays
    loaded, by where its memory lies; the order of loading therefore turns round every time.
    """
    import numpy as np

    images = np.random.default_rng(_IMAGE_SEED).standard_normal(shape, dtype=np.float32)
    samples: dict[str, list[float]] = {}
    for load in range(_LOADS):
        with opened(last_first=load % 2 == 1) as sessions:
            calls = {
                name: functools.partial(session.run, images) for name, session in sessions.items()
            }
            part = time_part(calls, title=f"batch {shape[0]}, part {load + 1} of {_LOADS}")
        for name, found in part.items():
            samples.setdefault(name, []).extend(found)
    return samples


@contextlib.contextmanager
def open_sessions(
    artifacts: Mapping[str, Path], runtime: str, threads: int, last_first: bool = False
) -> Iterator[dict[str, Session]]:
    """Opens all networks, in either order; yields them in the order given."""
    names = list(artifacts)[::-1] if last_first else list(artifacts)
    with contextlib.ExitStack() as stack:
        sessions = {
            name: stack.enter_context(open_session(Path(artifacts[name]), runtime, threads))
            for name in names
        }
        yield {name: sessions[name] for name in artifacts}
