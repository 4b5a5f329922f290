"""From the files that `bench` is given to what is measured, in the runtime asked for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path

from dmcp_deploy.bench.artifacts import Artifact, EngineSet, FileArtifact, NetworkArtifact
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import require
from dmcp_deploy.machine.affinity import check_threads
from dmcp_deploy.machine.cuda.device import open_device
from dmcp_deploy.machine.processor import adds_int8_in_16_bits
from dmcp_deploy.onnxgraph.saturation import can_saturate
from dmcp_deploy.options.export import BuildOptions
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.options.run import Compute
from dmcp_deploy.progress import Progress
from dmcp_deploy.registry import ENGINE_RUNTIMES, NETWORK_RUNTIMES, ONNX_RUNTIMES
from dmcp_deploy.rundir.files import ORIGINAL, PRUNED, run_files
from dmcp_deploy.runtimes.session import is_engine
from dmcp_deploy.runtimes.trt_flavours import load_flavour


def artifacts_of(
    files: Mapping[str, Path], options: BenchOptions, progress: Progress
) -> dict[str, Artifact]:
    """Returns name -> what is measured of a file; builds the engines that are not there yet.

    Args:
        files: Name -> ONNX file, or engine, which is measured as it is in any runtime.
        options: The runtime, batch sizes and precision that are asked for.
        progress: Told of what is built, and of files that give wrong answers on this processor.

    Raises:
        DmcpError: A file does not fit the runtime, or an engine cannot be built or run here.
    """
    check_threads(options.threads)
    sources = {name: path for name, path in files.items() if not is_engine(path)}
    if options.runtime in NETWORK_RUNTIMES:
        made = {name: _network(path, options) for name, path in sources.items()}
    elif options.runtime in ENGINE_RUNTIMES and sources:
        made = _engines(sources, options, progress)
    else:
        made = {}
        _warn_of_saturation(sources, progress)
    file = functools.partial(FileArtifact, runtime=options.runtime, threads=options.threads)
    return {name: made.get(name) or file(path) for name, path in files.items()}


def check_runtime(runtime: str, threads: int = 0) -> None:
    """Checks that there are so many cores, and that engines can be built and run if need be.

    Raises:
        DmcpError: There are fewer cores than threads, or TensorRT, a library, the driver or the
            GPU is missing.
    """
    check_threads(threads)
    if runtime in ENGINE_RUNTIMES:
        require("onnx", "onnxruntime")
        load_flavour(runtime)
        open_device()  # says what is missing; nothing is taken until it is entered


def _warn_of_saturation(files: Mapping[str, Path], progress: Progress) -> None:
    if not adds_int8_in_16_bits():
        return
    for path in files.values():
        # What is wrong with a file is told as it is opened.
        with contextlib.suppress(DmcpError, ValueError):
            if can_saturate(path):
                progress.say(
                    f"{path} can give wrong answers on this processor, which adds up products of"
                    " INT8 in 16 bits (AVX2 without VNNI), too few for weights of 8 bits; its"
                    ' latency stands. The preset "cpu" quantises for every processor.'
                )


def _network(path: Path, options: BenchOptions) -> Artifact:
    """Returns the network of a run that a file of it was exported from."""
    folder = path.parent
    if not (folder / "run.json").exists() or path not in run_files(folder).values():
        raise DmcpError(
            f"{path} is no network of a run, which {options.runtime} needs: give the run"
            f" directory, or --runtime {' or '.join(ONNX_RUNTIMES)}."
        )
    require("torch", "torchvision", "safetensors", "PIL")
    from dmcp_deploy.run.context import SUPERNET, RunContext
    from dmcp_deploy.run.networks import load_dense, searched_network

    context = RunContext.resume(folder, Compute())
    plan = context.plan()
    image, how = plan.network.input_shape, (options.threads, options.runtime)
    if path == run_files(folder)[PRUNED]:
        dense, weights = functools.cache(lambda: load_dense(folder)), folder / "dense.safetensors"
        return NetworkArtifact(weights, dense, image, plan.macs, *how)
    assert path == run_files(folder)[ORIGINAL], path
    full = functools.cache(lambda: searched_network(context).model)
    searched = context.run.file(SUPERNET)
    # Without a search on weights its own are random, and the plan alone says what it is.
    weights = searched if searched.exists() else context.run.file("plan.json")
    return NetworkArtifact(weights, full, image, plan.full_macs, *how)


def _engines(
    sources: Mapping[str, Path], options: BenchOptions, progress: Progress
) -> dict[str, Artifact]:
    """Returns the engines of files, checked all before the first is built."""
    check_runtime(options.runtime)
    from dmcp_deploy.run.engines import FOLDER, check_static, make_engine_request, static_engines

    request = make_engine_request(BuildOptions(options.runtime, batches=options.batches))
    folders = {name: path.parent / FOLDER for name, path in sources.items()}
    precisions = {
        name: check_static(path, folders[name], options.precision, request)
        for name, path in sources.items()
    }
    return {
        name: EngineSet(static_engines(path, folders[name], precisions[name], request, progress))
        for name, path in sources.items()
    }
