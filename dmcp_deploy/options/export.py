"""Options of what a run's network is exported to: ONNX files and engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.options.declare import check, option

CALIBRATION_IMAGES = 64  # fewer than 32 are refused: too few for the ranges of activations
CALIBRATION_METHOD = "minmax"
CALIBRATION_METHODS = ("minmax", "percentile", "entropy")
DEFAULT_OPSET = 20


def calibration_method_option() -> Any:
    """Returns the field of --calibration-method."""
    return option(
        CALIBRATION_METHOD,
        choices=CALIBRATION_METHODS,
        help="How INT8 finds ranges: minmax, percentile or entropy.",
    )


@dataclass(frozen=True)
class ExportOptions:
    """Which ONNX files of a run are written.

    Attributes:
        batch: Images per call; None leaves the batch dynamic.
        opset: ONNX operator set.
        precisions: Also convert the pruned network to these ("fp16", "bf16", "int8", "fp8") and
            judge each by the validation images; "fp32" judges the export itself.
        calibration: Training images that "int8" and "fp8" are calibrated on.
        original: Whether the full network is exported as well.
        calibration_method: How "int8" finds the ranges of activations: "minmax", or "entropy" or
            "percentile", which leave rare large values out.
    """

    batch: int | None = option(
        None, words={"dynamic": None}, help="Images per call: a number, or dynamic."
    )
    opset: int = option(DEFAULT_OPSET, help="ONNX operator set.")
    precisions: Sequence[str] = option(
        (), flag="--precision", help="Also convert to and judge: fp32,fp16,bf16,int8,fp8."
    )
    calibration: int = option(CALIBRATION_IMAGES, help="Images INT8 and FP8 are calibrated on.")
    original: bool = True
    calibration_method: str = calibration_method_option()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What every engine of a network is built for.

    Attributes:
        gpu_archs: RTX: the GPU architectures to build for, such as "sm86"; none: a portable
            engine for all from Ampere on.
        dla: The DLA core of a Jetson Orin to build for; layers it cannot take go to the GPU.
        timing_cache: TensorRT: a file that keeps kernel timings from build to build.
        workspace_bytes: Most scratch memory of a kernel; None leaves it to TensorRT.
        optimization_level: 0 (quick build) to 5 (longest search); None leaves it to TensorRT.
    """

    gpu_archs: tuple[str, ...] = option(
        (), flag="--gpu-arch", help="RTX: GPUs to build for, as in sm86,sm89."
    )
    dla: int | None = option(None, help="TensorRT on Orin: the DLA core to build for.")
    timing_cache: Path | None = option(None, help="TensorRT: a file that keeps kernel timings.")
    workspace_bytes: int | None = None
    optimization_level: int | None = option(
        None, least=0, most=5, help="0 (quick build) to 5 (longest search)."
    )


@dataclass(frozen=True)
class BuildOptions(TargetOptions):
    """Which engines of a network are built; bad values raise DmcpError.

    Attributes:
        runtime: "tensorrt", "tensorrt-rtx", or "auto" for the one installed here.
        precisions: Of "fp32", "fp16", "bf16", "int8", "fp8".
        batches: Batch sizes of the static engines.
        dynamic_batch: Smallest, best and largest batch of one engine, in place of `batches`.
        calibration_data: Calibration images for an ONNX file: float32 [N, C, H, W], as .npy.
        out: Folder of the engines; by default "engines" beside the ONNX file.
        calibration: Training images of a run that "int8" and "fp8" are calibrated on; None takes
            what the run has calibrated before, and 64 where there is nothing yet.
        calibration_method: As for `ExportOptions`.
    """

    runtime: str = option("auto", help="tensorrt, tensorrt-rtx, or auto.")
    precisions: Sequence[str] = option(
        ("fp16",), flag="--precision", help="Of the engines, as in fp32,fp16,bf16,int8."
    )
    batches: Sequence[int] = option((1,), flag="--batch", help="One static engine each: 1,8.")
    dynamic_batch: Sequence[int] | None = option(
        None, help="One engine for a range instead: MIN,OPT,MAX."
    )
    _: KW_ONLY
    calibration_data: Path | str | None = option(None, help="Images for an ONNX file (.npy).")
    out: Path | str | None = option(None, help="Folder of the engines.")
    calibration: int | None = option(
        None,
        help=f"Images INT8 and FP8 are calibrated on; {CALIBRATION_IMAGES} if not done before.",
    )
    calibration_method: str = calibration_method_option()

    def __post_init__(self) -> None:
        check(self)
