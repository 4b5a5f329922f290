"""The layers of what `bench` is given: profiled, and kept in a run directory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmcp_deploy.bench.layers.measure import measure_layers
from dmcp_deploy.bench.layers.record import LayersRecord
from dmcp_deploy.options.declare import merged
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.run import Compute
from dmcp_deploy.run.artifacts import artifacts_of
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.files import named_files
from dmcp_deploy.rundir.stages import LAYERS
from dmcp_deploy.runtimes.profile import check_profiler

RECORD = "layers.json"


def bench_layers(
    *artifacts: Path | str,
    options: BenchOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> LayersRecord:
    """Profiles the layers of ONNX files, engines, or a run's original and pruned network.

    A single run directory keeps the record as layers.json.

    Args:
        *artifacts: ONNX files, engines or run directories; all are compared with the first network.
        options: How to measure; of the batch sizes the first counts.
        compute: Where to report progress.
        **changes: Fields of `BenchOptions` that differ from `options`.

    Raises:
        DmcpError: A file is missing, its runtime has no profiler, or the networks cannot be
            compared.
    """
    wanted, compute = merged(BenchOptions, options, **changes), compute or Compute()
    check_profiler(wanted.runtime)
    paths = [Path(artifact) for artifact in artifacts]
    files = named_files(paths)
    if not (len(paths) == 1 and paths[0].is_dir()):
        return _measure(files, wanted, compute)
    run = RunDir(paths[0])
    run.request()  # what is no run is found before the measurement
    with run.stage(LAYERS, [path.name for path in files.values()], [RECORD]) as figures:
        figures["asked"] = wanted.to_json()
        record = _measure(files, wanted, compute)
        record.save(run.file(RECORD))
    return record


def _measure(files: Mapping[str, Path], options: BenchOptions, compute: Compute) -> LayersRecord:
    artifacts = artifacts_of(files, options, compute.progress)
    return measure_layers(artifacts, options, progress=compute.progress)
