"""ONNX Runtime's own profile of an ONNX file."""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.runtimes.profile_names import Kernel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: The first runs allocate memory and fill caches.
WARM_UPS = 3

_SUFFIX = "_kernel_time"
#: What runs other kernels, which are told as well.
_AROUND_OTHERS = {"If", "Loop", "Scan"}
#: The profile tells whole microseconds, rounded down.
_HALF_US = 0.5


def profile_onnxruntime(
    path: Path, images: npt.NDArray[np.float32], threads: int, runs: int
) -> list[tuple[Kernel, tuple[float, ...]]]:
    """Returns the kernels of an ONNX file, each with one sample in milliseconds a run.

    Raises:
        DmcpError: The file is absent or does not fit, or the library is missing.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dmcp-deploy.") as folder,
        OnnxSession(path, threads, profile=Path(folder) / "profile") as session,
    ):
        for _ in range(WARM_UPS + runs):
            session.run(images)
        # The names of a damaged file's operators may be no text.
        content = session.end_profiling().read_text(encoding="utf-8", errors="replace")
    return kernels_of_events(json.loads(content), runs)


def kernels_of_events(
    events: Sequence[Mapping[str, Any]], runs: int
) -> list[tuple[Kernel, tuple[float, ...]]]:
    """Returns the kernels in a profile, with their samples of the last runs."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")[-runs:]
    found: dict[tuple[str, str], list[float]] = {}
    kinds: dict[tuple[str, str], str] = {}
    for event in events:
        run = bisect_right(starts, event["ts"]) - 1
        kind = str(event["args"].get("op_name", ""))
        if run < 0 or not event["name"].endswith(_SUFFIX) or kind in _AROUND_OTHERS:
            continue
        key = (event["name"].removesuffix(_SUFFIX), str(event["args"].get("node_index")))
        kinds[key] = kind
        found.setdefault(key, [0.0] * len(starts))[run] += (event["dur"] + _HALF_US) / 1e3
    return [
        (Kernel(key[0], kinds[key], (key[0],)), tuple(samples)) for key, samples in found.items()
    ]
