"""Times the layers of probe networks in their places, in passes; a killed measurement resumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from dmcp_deploy.artifact import digest_files
from dmcp_deploy.bench.artifacts import Artifact
from dmcp_deploy.bench.lineup import random_images
from dmcp_deploy.bench.tables.part import open_part
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.affinity import pinned
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.profile import KernelTime, profile_layers
from dmcp_deploy.runtimes.sampler import Clock, Sampler, make_sampler

PASSES = 3

_WARM_UPS = 3
#: A probe is profiled for this long in a pass, and for so many calls.
_PROBE_S = 0.3
_FEWEST_CALLS, _MOST_CALLS = 5, 20
#: For each profiled call, so many without the profiler: a whole call is disturbed more often than
#: a kernel, and needs more samples.
_WHOLE_CALLS = 2

#: Layer -> samples in milliseconds.
LayerSamples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Step:
    """One probe in one pass.

    Attributes:
        own: Layer -> what its kernels took together in each profiled run.
        after: Layer -> what the kernels took that follow it and are no layer.
        whole_ms: What whole calls took, with profiling off.
        ran_by: What ran them.
    """

    own: LayerSamples
    after: LayerSamples
    whole_ms: Sequence[float]
    ran_by: str


@dataclass(frozen=True)
class _Turn:
    """A probe's turn in a pass."""

    number: int = field(metadata={"json": "pass"})
    probe: str


@dataclass(frozen=True)
class Measured:
    """All that was measured of the probes.

    Attributes:
        steps: Probe -> its steps, one a pass.
        environment: The machine and the libraries.
    """

    steps: Mapping[str, Sequence[Step]]
    environment: Mapping[str, Any]


def measure_probes(
    artifacts: Mapping[str, Artifact],
    image: tuple[int, int, int],
    setting: Setting,
    part: Path,
    *,
    passes: int = PASSES,
    progress: Progress = NO_PROGRESS,
) -> Measured:
    """Returns the times of all layers of all probes, measured in passes over the probes.

    Each pass goes through the probes in an order of its own, so that what the machine drifts hits
    all alike. What is measured is kept in a file after every probe.

    Args:
        artifacts: Probe -> what is measured of it.
        image: (C, H, W) of one image.
        setting: How to measure.
        part: The file that holds what is measured so far; the same call goes on from it.
        passes: Times that each probe is measured.
        progress: Told of every probe that was measured.

    Raises:
        DmcpError: The file is of another measurement, or a probe cannot be measured.
    """
    images = random_images(image, setting.batch)
    files = (item.at_batch(setting.batch).path for item in artifacts.values())
    kept = open_part(part, setting, {"probes": digest_files(files)}, _Turn, Step)
    turns = []
    for number in range(passes):
        names = list(artifacts)
        Random(number).shuffle(names)
        turns += [_Turn(number, name) for name in names]
    with (
        pinned(setting.threads),
        progress.task("latency table", len(turns), len(kept.steps), unit="probe") as bar,
    ):
        for turn in turns:
            if turn not in kept.steps:
                kept.add(turn, _measure(artifacts[turn.probe], images, setting))
                bar.advance()
    steps = {
        name: [kept.steps[_Turn(number, name)] for number in range(passes)] for name in artifacts
    }
    return Measured(steps, kept.environment)


def split_kernels(
    kernels: Sequence[KernelTime],
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns what each layer's kernels took in each run, and what those that follow it did.

    Kernels of no layer are counted with the layer before them in the order of execution, those
    before the first layer with the first.

    Raises:
        DmcpError: No kernel is a layer's.
    """
    last = next((kernel.layer for kernel in kernels if kernel.layer is not None), None)
    if last is None:
        raise DmcpError("The runtime's profile names no layer of the network.")
    own: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for kernel in kernels:
        last = kernel.layer or last
        group = after if kernel.layer is None else own
        before = group.get(last, [0.0] * len(kernel.samples_ms))
        group[last] = [a + b for a, b in zip(before, kernel.samples_ms, strict=True)]
    return own, after


def warm_calls(sampler: Sampler, seconds: float) -> int:
    """Warms a network up; returns how many calls it makes in so many seconds, 5 to 20."""
    slowest = max([sampler.sample_ms() for _ in range(_WARM_UPS)][1:])
    return min(max(math.ceil(seconds / (slowest / 1e3)), _FEWEST_CALLS), _MOST_CALLS)


def _measure(artifact: Artifact, images: npt.NDArray[np.float32], setting: Setting) -> Step:
    file = artifact.at_batch(setting.batch)
    with file.open() as session:
        sampler = make_sampler(session, images, Clock())
        calls = warm_calls(sampler, _PROBE_S)
        calls_ms = [sampler.sample_ms() for _ in range(_WHOLE_CALLS * calls)]
        ran_by = session.runtime
    kernels = profile_layers(
        file.path, images, runtime=setting.runtime, threads=setting.threads, runs=calls
    )
    return Step(*split_kernels(kernels), calls_ms, ran_by)
