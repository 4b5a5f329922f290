"""The time of each layer of some networks, profiled side by side by their runtime."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.artifacts import Artifact, FileArtifact
from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, OtherKernels, Profiled
from dmcp_deploy.bench.layers.roofline import Limits, measure_limits
from dmcp_deploy.bench.lineup import Image, Lineup, random_images
from dmcp_deploy.bench.measure import line_up
from dmcp_deploy.bench.timing import is_turned, time_interleaved
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.layers import OnnxLayer, onnx_layers
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.progress import NO_PROGRESS, Bar, Progress
from dmcp_deploy.runtimes.profile import KernelTime, layers_file, profile_layers
from dmcp_deploy.runtimes.session import is_engine

#: Parts of the measurement; in each every network is loaded anew, first last in every other.
_PARTS = 6
#: Parts in which the limits are measured too: a disturbance seldom lasts through all of them.
_PARTS_WITH_LIMITS = (0, 2, 4)
#: Share of a part's time in which whole calls are timed, with profiling off.
_CALLS_SHARE = 0.3
#: Profiled runs of each network in a part. OpenVINO loads the network for every five of them.
_FEWEST_RUNS, _MOST_RUNS = 5, 10
#: Stands for a time too short to be listed by a profiler: a tenth of the microsecond it counts in.
_NEXT_TO_NOTHING_MS = 1e-4


def measure_layers(
    artifacts: Mapping[str, Path | Artifact],
    options: BenchOptions,
    *,
    progress: Progress = NO_PROGRESS,
) -> LayersRecord:
    """Returns the times of every layer of networks, profiled in parts that take turns.

    Args:
        artifacts: Name -> ONNX file or engine; the others are compared with the first.
        options: How to measure; of the batch sizes the first counts, and the seconds are over all
            files, as far as the fewest runs leave it.
        progress: Told of every part of every network.

    Raises:
        DmcpError: Nothing to measure, a missing library or file, a network that no profiler tells
            the layers of, files with different inputs, or a batch size that a file does not take:
            all found before the first measurement. A network fails while it runs.
    """
    batch = options.batches[0]
    lineup = line_up(artifacts, replace(options, graph=None, transfers=False))
    files = {name: _file(name, item.at_batch(batch)) for name, item in lineup.artifacts.items()}
    ready = lineup.check([batch])
    layers = {name: onnx_layers(layers_file(file.path), batch) for name, file in files.items()}
    results = {name: _Result() for name in files}
    with lineup.watched(ready, [batch]) as environment:
        precisions = {name: ready.known[name, batch]["precision"] for name in files}
        plan = _Plan(lineup, files, precisions, ready.image, batch, options.seconds / _PARTS)
        with progress.task("layers", total=_PARTS * len(files), unit="part") as bar:
            _measure_parts(plan, results, bar)
    runtimes = {name: ready.known[name, batch]["runtime"] for name in files}
    networks = tuple(
        _profiled(plan, name, runtimes[name], layers[name], results[name]) for name in files
    )
    return LayersRecord(networks, environment, ready.image)


def _profiled(
    plan: _Plan, name: str, runtime: str, layers: Sequence[OnnxLayer], result: _Result
) -> Profiled:
    file = plan.files[name]
    return Profiled(
        name=name,
        path=file.path.name,
        digest=digest_file(file.path),
        batch=plan.batch,
        runtime=runtime,
        threads=plan.lineup.threads,
        **timed(layers, result.parts),
        network_ms=tuple(result.network_ms),
        limits=result.limits,
    )


def timed(
    layers: Sequence[OnnxLayer], parts: Sequence[Sequence[KernelTime]]
) -> dict[str, tuple[Any, ...]]:
    """Returns the fields of a `Profiled` that tell times, of one network's kernels in each part.

    What one layer's kernels took counts together, and what other kernels of one kind did.
    """
    groups = [_grouped(kernels) for kernels in parts]
    runs = [len(kernels[0].samples_ms) for kernels in parts]
    keys = list(dict.fromkeys(key for group in groups for key in group))
    samples = {key: _joined(key, groups, runs) for key in keys}
    with_kernel = [layer for layer in layers if (layer.name, "") in samples]
    return {
        "layers": tuple(LayerTime(layer, samples[layer.name, ""]) for layer in with_kernel),
        "without_kernel": tuple(layer.name for layer in layers if layer not in with_kernel),
        "others": tuple(
            OtherKernels(kind, max(len(group.get((None, kind), ())) for group in groups), kind_ms)
            for (name, kind), kind_ms in samples.items()
            if name is None
        ),
    }


#: A layer's name, or None and a kind of other kernels.
_Key = tuple[str | None, str]


def _grouped(kernels: Sequence[KernelTime]) -> dict[_Key, list[tuple[float, ...]]]:
    groups: dict[_Key, list[tuple[float, ...]]] = {}
    for kernel in kernels:
        key = (kernel.layer, "" if kernel.layer is not None else kernel.kind or "other")
        groups.setdefault(key, []).append(kernel.samples_ms)
    return groups


def _joined(
    key: _Key, groups: Sequence[Mapping[_Key, list[tuple[float, ...]]]], runs: Sequence[int]
) -> tuple[float, ...]:
    """Returns what kernels took together in every run of every part."""
    samples: list[float] = []
    for group, count in zip(groups, runs, strict=True):
        # A profiler leaves out what was too short.
        kernels_ms = group.get(key, [(_NEXT_TO_NOTHING_MS,) * count])
        samples += [sum(times) for times in zip(*kernels_ms, strict=True)]
    return tuple(samples)


@dataclass(frozen=True)
class _Plan:
    """What is measured, and for how long.

    Attributes:
        lineup: The networks, for whole calls.
        files: Name -> file, for profiles.
        precisions: Name -> the file's precision.
        image: (C, H, W) of one image.
        batch: Images per call.
        part_s: Measuring time of a part.
    """

    lineup: Lineup
    files: Mapping[str, FileArtifact]
    precisions: Mapping[str, str | None]
    image: Image
    batch: int
    part_s: float


@dataclass
class _Result:
    """What has been measured of one network so far."""

    network_ms: list[float] = field(default_factory=list)
    parts: list[tuple[KernelTime, ...]] = field(default_factory=list)
    limits: Limits | None = None


def _measure_parts(plan: _Plan, results: Mapping[str, _Result], bar: Bar) -> None:
    images, runs = random_images(plan.image, plan.batch), 0
    for part in range(_PARTS):
        last_first = is_turned(part)
        if part in _PARTS_WITH_LIMITS:
            _raise_limits(plan, results)
        _time_calls(plan, results, last_first)
        # All networks are profiled alike, so that sample i of each is from the same part.
        runs = runs or _runs(plan, results)
        for name in list(results)[:: -1 if last_first else 1]:
            file = plan.files[name]
            kernels = profile_layers(
                file.path, images, runtime=file.runtime, threads=file.threads, runs=runs
            )
            results[name].parts.append(kernels)
            bar.advance()


def _raise_limits(plan: _Plan, results: Mapping[str, _Result]) -> None:
    """Measures the limits of every network once more; those of engines are not known."""
    limits_of = functools.cache(measure_limits)
    for name, file in plan.files.items():
        if is_engine(file.path):
            continue
        quantized = plan.precisions[name] == "int8"
        measured = limits_of(file.runtime, file.threads, quantized=quantized)
        before = results[name].limits
        results[name].limits = measured if before is None else measured.best(before)


def _time_calls(plan: _Plan, results: Mapping[str, _Result], last_first: bool) -> None:
    """Times whole calls with profiling off."""
    seconds = plan.part_s * _CALLS_SHARE
    with plan.lineup.opened(plan.image, plan.batch, last_first) as samplers:
        for name, samples in time_interleaved(
            samplers, seconds=seconds, warmup_s=seconds / 4
        ).items():
            results[name].network_ms += samples


def _runs(plan: _Plan, results: Mapping[str, _Result]) -> int:
    """Returns how many profiled runs of every network a part has time for."""
    round_s = sum(statistics.median(item.network_ms) for item in results.values()) / 1e3
    wanted = int(plan.part_s * (1 - _CALLS_SHARE) / round_s)
    return min(max(wanted, _FEWEST_RUNS), _MOST_RUNS)


def _file(name: str, artifact: Artifact) -> FileArtifact:
    if isinstance(artifact, FileArtifact):
        return artifact
    raise DmcpError(
        f"{name} ({artifact.path}) runs in torch, whose layers are not profiled: give an ONNX file"
        " or an engine."
    )
