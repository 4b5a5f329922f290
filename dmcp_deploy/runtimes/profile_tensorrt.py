"""TensorRT's own profile of an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dmcp_deploy.artifact import digest_files
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.profile_names import Kernel
from dmcp_deploy.runtimes.tensorrt import EngineSession, source_files
from dmcp_deploy.runtimes.trt_flavours import load_flavour

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dmcp_deploy.runtimes.trt_api import IProfiler, TensorRT

#: The first runs load kernels, and clocks rise.
WARM_UPS = 10

#: What joins the names of the operators that a layer is fused of.
_JOINT = re.compile(r" \+ | \|\| ")


def profile_engine(
    path: Path, images: npt.NDArray[np.float32], runs: int
) -> list[tuple[Kernel, tuple[float, ...]]]:
    """Returns the kernels of an engine, each with one sample in milliseconds a run.

    Raises:
        DmcpError: The engine does not run here, or not on these images.
    """
    found: dict[str, list[float]] = {}
    with EngineSession(path) as session:
        kinds = {layer["name"]: layer["kind"] for layer in session.record.layers}
        times: list[tuple[str, float]] = []
        session.profile_with(_profiler(load_flavour(session.record.runtime).trt, times))
        for run in range(WARM_UPS + runs):
            times.clear()
            session.run(images)
            for name, time_ms in _summed(times).items() if run >= WARM_UPS else ():
                found.setdefault(name, []).append(time_ms)
    return [
        (Kernel(name, kinds.get(name, ""), tuple(_JOINT.split(name))), tuple(samples))
        for name, samples in found.items()
    ]


def source_onnx(path: Path) -> Path:
    """Returns the ONNX file that an engine was built from.

    Raises:
        DmcpError: It lies neither beside the engine nor in the folder above, or the engine is
            missing or damaged.
    """
    record = EngineRecord.load(path)
    for files in source_files(path, record):
        if digest_files(files) == record.onnx_digest:
            return Path(files[0])
    raise DmcpError(
        f"The layers of {path} are named in {record.onnx}, from which it was built, and that lies"
        " neither beside it nor in the folder above: copy it there."
    )


def _profiler(trt: TensorRT, times: list[tuple[str, float]]) -> IProfiler:
    """Returns a profiler that appends each layer's name and time in milliseconds."""

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]  # it carries no types
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.append((layer_name, ms))

    return cast("IProfiler", Profiler())


def _summed(times: list[tuple[str, float]]) -> dict[str, float]:
    summed: dict[str, float] = {}
    for name, time_ms in times:
        summed[name] = summed.get(name, 0.0) + time_ms
    return summed
