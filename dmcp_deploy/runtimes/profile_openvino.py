"""OpenVINO's own profile of an ONNX file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.runtimes.openvino import KernelMean, OpenVinoSession
from dmcp_deploy.runtimes.profile_names import Kernel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: OpenVINO tells the mean over all runs of a loaded network, in whole microseconds. The more
#: runs there were before, the coarser is what a difference of two means tells of the last ones:
#: with 3 before and 5 counted, it is half a microsecond.
WARM_UPS = 3
RUNS_PER_LOAD = 5

_HALF_US = 0.5


def profile_openvino(
    path: Path, images: npt.NDArray[np.float32], threads: int, runs: int
) -> list[tuple[Kernel, tuple[float, ...]]]:
    """Returns the kernels of an ONNX file, each with its mean of `RUNS_PER_LOAD` runs a load.

    Raises:
        DmcpError: The file is absent or does not fit, or the library is missing.
    """
    loads = [_load_means(path, images, threads) for _ in range(math.ceil(runs / RUNS_PER_LOAD))]
    found = []
    # Names that OpenVINO makes up differ from load to load; the order does not.
    for means in zip(*loads, strict=True):
        kernel = means[0][1]
        if any(mean.mean_us for pair in means for mean in pair):
            samples = tuple(mean_after(early.mean_us, late.mean_us) for early, late in means)
            found.append((Kernel(kernel.name, kernel.kind, kernel.parts), samples))
    return found


def _load_means(
    path: Path, images: npt.NDArray[np.float32], threads: int
) -> list[tuple[KernelMean, KernelMean]]:
    """Returns the kernels of one load, with their means after the warm-up and after all runs."""
    with OpenVinoSession(path, threads, profile=True) as session:
        for _ in range(WARM_UPS):
            session.run(images)
        before = session.kernel_means()
        for _ in range(RUNS_PER_LOAD):
            session.run(images)
        return list(zip(before, session.kernel_means(), strict=True))


def mean_after(early_us: float, late_us: float) -> float:
    """Returns the mean in milliseconds of the runs between two means over all runs.

    Args:
        early_us: Mean after the warm-up, in microseconds, rounded down.
        late_us: Mean after all runs, likewise.
    """
    early = (early_us + _HALF_US) * WARM_UPS
    late = (late_us + _HALF_US) * (WARM_UPS + RUNS_PER_LOAD)
    # What rounding took from one mean and not from the other may exceed a short kernel's time.
    return max((late - early) / RUNS_PER_LOAD, _HALF_US) / 1e3
