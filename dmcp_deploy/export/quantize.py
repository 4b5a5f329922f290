"""ONNX in FP32 -> Q/DQ ONNX in INT8 or FP8, calibrated on images.

TensorRT and CPU runtimes want different files: what one computes fast, the other refuses or
computes slowly. A file says which of the two it was made for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, helper
from onnxruntime import quantization as ort

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.half_graph import node_label
from dmcp_deploy.export.image_batches import image_batches
from dmcp_deploy.export.quiet import quiet
from dmcp_deploy.onnxgraph.file import (
    PRESET_KEY,
    OnnxFile,
    read_onnx,
    require_fp32,
    write_onnx,
)
from dmcp_deploy.onnxgraph.image_nodes import reads_images
from dmcp_deploy.options.export import CALIBRATION_METHODS

PRESETS = ("tensorrt", "cpu")
METHODS = CALIBRATION_METHODS
#: Fewer miss the ranges that activations take on other images.
FEWEST_IMAGES = 32
#: Below, DequantizeLinear has no axis, and so no scale per channel.
LOWEST_OPSET = 13

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_METHODS = {
    "minmax": ort.CalibrationMethod.MinMax,
    "percentile": ort.CalibrationMethod.Percentile,
    "entropy": ort.CalibrationMethod.Entropy,
}
#: TensorRT fuses a convolution with what follows it if only inputs of weighted operators are
#: quantised, and takes no zero points and no int32 biases.
_TENSORRT_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": False,
    "OpTypesToExcludeOutputQuantization": list(_WEIGHTED),
}


@dataclass(frozen=True)
class QuantizeReport:
    """A Q/DQ ONNX file, and how much of it is quantised.

    Attributes:
        path: The file.
        digest: SHA-256 of the file, as "sha256:<hex>".
        precision: "int8" or "fp8".
        preset: "tensorrt" or "cpu".
        method: How ranges were found: "minmax", "percentile", "entropy"; for fp8 "distribution".
        calibration_images: Images that the ranges come from.
        quantized: Names of the convolutions and linear layers with quantised input and weight.
        kept: Names of those that still compute in FP32.
    """

    path: Path
    digest: str
    precision: str
    preset: str
    method: str
    calibration_images: int
    quantized: tuple[str, ...]
    kept: tuple[str, ...]


def quantize_int8(
    source: Path,
    path: Path,
    images: npt.NDArray[np.float32],
    preset: str = "tensorrt",
    method: str = "minmax",
) -> QuantizeReport:
    """Returns the report of an FP32 ONNX file's copy in INT8, one scale per channel of weights.

    Args:
        source: The FP32 file, with an open or a fixed batch size.
        path: The file to write; may be the source.
        images: [N, C, H, W], float32, N of 32 or more: real images, prepared as for validation.
        preset: "tensorrt": signed, symmetric, inputs of weighted operators only, FP32 biases.
            "cpu": unsigned activations with zero points and weights of 7 bits, which make the
            network right on every processor.
        method: "minmax", "percentile" or "entropy".

    Raises:
        DmcpError: The preset or method is unknown, the images are too few or do not fit, the
            source is no sound ONNX file in FP32, or the file cannot be written.
    """
    _check_choice("preset", preset, PRESETS)
    _check_choice("calibration method", method, METHODS)
    settings: dict[str, Any] = {
        "calibrate_method": _METHODS[method],
        "weight_type": ort.QuantType.QInt8,
        "per_channel": True,
    }
    if preset == "tensorrt":
        settings.update(
            activation_type=ort.QuantType.QInt8,
            op_types_to_quantize=list(_WEIGHTED),
            extra_options=dict(_TENSORRT_OPTIONS),
        )
    else:
        # With 8 bits, x86 without VNNI would cut sums of products off (see onnxgraph.saturation).
        settings.update(activation_type=ort.QuantType.QUInt8, reduce_range=True, extra_options={})
    return _quantize(source, path, images, settings, ("int8", preset, method))


def quantize_fp8(source: Path, path: Path, images: npt.NDArray[np.float32]) -> QuantizeReport:
    """Returns the report of an FP32 ONNX file's copy in FP8 (E4M3FN), one scale per weight.

    It is for TensorRT: ONNX Runtime cannot run it on a CPU, and GPUs before compute capability
    8.9 have no FP8.

    Args:
        source: As for `quantize_int8`.
        path: As for `quantize_int8`.
        images: As for `quantize_int8`.

    Raises:
        DmcpError: As for `quantize_int8`.
    """
    settings = {
        # ONNX Runtime knows no other method for FP8.
        "calibrate_method": ort.CalibrationMethod.Distribution,
        "weight_type": ort.QuantType.QFLOAT8E4M3FN,
        "activation_type": ort.QuantType.QFLOAT8E4M3FN,
        "op_types_to_quantize": list(_WEIGHTED),
        # Floating point spans the channels' ranges itself; ONNX Runtime needs minutes for more.
        "per_channel": False,
        "extra_options": dict(_TENSORRT_OPTIONS),
    }
    return _quantize(source, path, images, settings, ("fp8", "tensorrt", "distribution"))


def check_calibration(images: int) -> None:
    """Checks that there are enough images to find the ranges of activations.

    Raises:
        DmcpError: There are not.
    """
    if images < FEWEST_IMAGES:
        raise DmcpError(
            f"There are {images} calibration images, and {FEWEST_IMAGES} are the fewest that find"
            " the ranges: give more."
        )


class _Batches(ort.CalibrationDataReader):  # type: ignore[misc]
    """Batches of images, given one by one as ONNX Runtime asks for them."""

    def __init__(self, name: str, batches: Sequence[npt.NDArray[np.float32]]) -> None:
        self._name = name
        self._batches = batches
        self.set_range(0, len(batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Makes the batches from one index up to another the next ones."""
        self._next = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """Returns the next batch by the input's name; None after the last."""
        batch = next(self._next, None)
        return None if batch is None else {self._name: batch}


def _quantize(
    source: Path,
    path: Path,
    images: npt.NDArray[np.float32],
    settings: dict[str, Any],
    kind: tuple[str, str, str],
) -> QuantizeReport:
    precision, preset, method = kind
    proto, file = read_onnx(source)
    _check_request(file, len(images))
    batches = _Batches(file.input_name, image_batches(file, images))
    name_nodes(proto.graph)
    settings["nodes_to_exclude"] = _excluded(proto.graph, preset)
    result = _run(proto, batches, settings, file)
    props = {item.key: item.value for item in proto.metadata_props}
    helper.set_model_props(result, {**props, PRESET_KEY: preset})
    write_onnx(result, path)
    quantized = quantized_layers(result)
    weighted = [node for node in result.graph.node if node.op_type in _WEIGHTED]
    kept = tuple(label for label in map(node_label, weighted) if label not in quantized)
    return QuantizeReport(
        path=Path(path),
        digest=digest_file(path),
        precision=precision,
        preset=preset,
        method=method,
        calibration_images=len(images),
        quantized=quantized,
        kept=kept,
    )


def _check_choice(what: str, found: str, allowed: tuple[str, ...]) -> None:
    if found not in allowed:
        raise DmcpError(f"The {what} is {found!r} and must be one of {', '.join(allowed)}.")


def _check_request(file: OnnxFile, images: int) -> None:
    require_fp32(file)
    check_calibration(images)
    if file.opset < LOWEST_OPSET:
        raise DmcpError(
            f"{file.path} has opset {file.opset}, and scales per channel need {LOWEST_OPSET}:"
            " export it with a newer one."
        )


def name_nodes(graph: GraphProto) -> None:
    """Names nodes without a name, as ONNX Runtime excludes by name."""
    taken = {node.name for node in graph.node}
    for node in graph.node:
        if not node.name:
            node.name = f"{node.op_type}:{node_label(node)}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)


def _excluded(graph: GraphProto, preset: str) -> list[str]:
    """Returns the nodes that are never quantised."""
    constants = {tensor.name for tensor in graph.initializer}
    constants.update(n.output[0] for n in graph.node if n.op_type == "Constant")

    def has_weight(node: NodeProto) -> bool:
        return len(node.input) > 1 and node.input[1] in constants

    return [
        node.name
        for node, reads in zip(graph.node, reads_images(graph), strict=True)
        # ONNX Runtime would quantise the sizes of an image too, and would make others of them.
        if not reads or (preset == "tensorrt" and not has_weight(node))
    ]


def _run(
    proto: ModelProto, batches: _Batches, settings: dict[str, Any], file: OnnxFile
) -> ModelProto:
    # One batch is collected at a time: the activations of all would fill the memory.
    options = {**settings.pop("extra_options"), "CalibStridedMinMax": 1}
    # ONNX Runtime writes beside its input, so that gets a folder of its own.
    with tempfile.TemporaryDirectory(prefix="dmcp-deploy.") as folder, quiet():
        given, made = Path(folder) / "source.onnx", Path(folder) / "quantized.onnx"
        onnx.save_model(proto, given)
        try:
            ort.quantize_static(
                given,
                made,
                batches,
                quant_format=ort.QuantFormat.QDQ,
                extra_options=options,
                **settings,
            )
        except (ValueError, RuntimeError, NotImplementedError) as err:
            raise DmcpError(f"{file.path} cannot be quantised: {reason_of(err)}.") from err
        except ImportError as err:  # ONNX Runtime of Python 3.10 asks onnx for what it has no more
            raise DmcpError(
                f"{file.path} cannot be quantised by ONNX Runtime {onnxruntime.__version__}, which"
                f" does not fit onnx {onnx.__version__} in this ({reason_of(err)}): take a newer"
                " one, or another precision."
            ) from err
        return onnx.load_model(made, format="protobuf")


def quantized_layers(proto: ModelProto) -> tuple[str, ...]:
    """Returns the names of the weighted operators whose input and weight are quantised."""
    dequantized = {
        node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"
    }
    return tuple(
        node_label(node)
        for node in proto.graph.node
        if node.op_type in _WEIGHTED and dequantized.issuperset(node.input[:2])
    )
