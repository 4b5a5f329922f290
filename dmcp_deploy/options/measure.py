"""Options of measurements: of networks, and of the layers that latency tables are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import check, option, recorded
from dmcp_deploy.options.network import NetworkOptions, align_option
from dmcp_deploy.registry import BENCH_RUNTIMES, ENGINE_RUNTIMES, ONNX_RUNTIMES, PRECISIONS

#: The slowdown that a gate allows if not told otherwise.
MAX_REGRESS = "5%"

#: Networks that a latency table is measured on.
PROBES = 16
FEWEST_PROBES, MOST_PROBES = 4, 999
#: Whole plans that correct one; an engine is built for each where a runtime needs one.
PLANS, ENGINE_PLANS = 120, 24
FEWEST_PLANS, MOST_PLANS = 10, 999


@dataclass(frozen=True)
class BenchOptions:
    """How latency is measured; bad values raise DmcpError.

    Attributes:
        batches: Images per call.
        threads: Threads on a CPU, each pinned with a core; 0 leaves both to the runtime.
        seconds: Measuring time per batch size.
        runtime: What runs ONNX files: "onnxruntime" or "openvino"; "torch" runs the networks of a
            run; "tensorrt" and "tensorrt-rtx" run engines that are built first.
        graph: Whether a GPU runs a CUDA graph; None for engines where the CUDA library can.
        transfers: Whether a GPU's images and logits are copied within the time.
        precision: Of the engines that are built; None for FP16, or what the file has already.
        alone: Whether a network runs right before each of its samples, as where no other does, or
            behind the others; None as the record that is compared with, or as the certificate of a
            run with a budget in time, and else behind the others.
    """

    batches: Sequence[int] = option((1,), flag="--batch", help="Batch sizes, as in 1,8.")
    threads: int = option(0, least=0, help="Threads, pinned to cores; 0: the runtime's choice.")
    seconds: float = option(10.0, help="Measuring time per batch size.")
    runtime: str = option(
        "onnxruntime", choices=BENCH_RUNTIMES, help=f"One of {', '.join(BENCH_RUNTIMES)}."
    )
    graph: bool | None = option(
        None, flag="--graph/--no-graph", later=True, help="GPU: as a CUDA graph, if it can."
    )
    transfers: bool = option(
        False, flag="--transfers/--no-transfers", later=True, help="GPU: count copies as well."
    )
    precision: str | None = option(
        None,
        choices=PRECISIONS,
        later=True,
        help="Of the engines that tensorrt builds; fp16 if not given.",
    )
    alone: bool | None = option(
        None,
        flag="--alone/--in-turn",
        later=True,
        help="Sample networks as they run alone, in warm caches; as certified, else in turn.",
    )

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise DmcpError(f"The batch sizes are {list(self.batches)}: each must be 1 or more.")
        check(self)
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise DmcpError(f"--seconds {self.seconds:g} must be above zero and finite.")
        if self.precision is not None and self.runtime not in ENGINE_RUNTIMES:
            raise DmcpError(
                f"--precision {self.precision} is for engines that are built to be measured"
                f" (--runtime {' or '.join(ENGINE_RUNTIMES)}): {self.runtime} runs a network"
                " in the precision that it has."
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values."""
        return recorded(self)


@dataclass(frozen=True)
class ProbeOptions(NetworkOptions):
    """Which probe networks a latency table is measured on; bad values raise DmcpError.

    Attributes:
        align: Widths are multiples of this where a group is larger.
        seed: The seed of the widths.
    """

    align: int = align_option()
    seed: int = option(0, help="Seed of the widths.")


@dataclass(frozen=True)
class Setting:
    """How a latency table is measured.

    Attributes:
        runtime: What runs the probes: "onnxruntime" or "openvino"; "tensorrt" and "tensorrt-rtx"
            run engines, which are built first, one a probe.
        precision: What engines compute in; elsewhere "fp32", as the probes are.
        threads: Threads on a CPU; 0 leaves the number to the runtime.
        batch: Images per call.
    """

    runtime: str = option(
        "onnxruntime",
        choices=(*ONNX_RUNTIMES, *ENGINE_RUNTIMES),
        help="onnxruntime, openvino, tensorrt or tensorrt-rtx.",
    )
    precision: str = option("fp32", choices=PRECISIONS, help="Of the engines, as in fp16.")
    threads: int = option(0, least=0, help="Threads; 0: the runtime's choice.")
    batch: int = option(1, least=1, help="Images per call.")
