"""ONNX in FP32 -> the same network in FP16 or BF16, its inputs and outputs left in FP32.

TensorRT runs a network in the types that its graph carries, so the precision is written there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.half_graph import HalfGraph, KeptNode, node_label
from dmcp_deploy.export.half_types import HALF_TYPES, HalfType
from dmcp_deploy.export.image_batches import image_batches
from dmcp_deploy.onnxgraph.file import (
    opset_of,
    read_onnx,
    require_fp32,
    tensor_types,
    write_onnx,
)
from dmcp_deploy.runtimes.onnxruntime import OnnxSession


@dataclass(frozen=True)
class HalfReport:
    """An ONNX file in half precision, and how far it is so.

    Attributes:
        path: The file.
        digest: SHA-256 of the file, as "sha256:<hex>".
        precision: "fp16" or "bf16".
        opset: Version of the standard operators; for bf16 at least 22.
        converted: Names of the operators that compute in half precision.
        kept: The operators with floating-point tensors that do not.
        flushed_weights: Weights other than 0 that became 0, being too small for the type.
        raised: Epsilons too small for the type -> what stands in for each.
    """

    path: Path
    digest: str
    precision: str
    opset: int
    converted: tuple[str, ...]
    kept: tuple[KeptNode, ...]
    flushed_weights: int
    raised: Mapping[str, float]


def to_half(source: Path, path: Path, precision: str) -> HalfReport:
    """Returns the report of an FP32 ONNX file's copy in half precision, written in one step.

    Inputs and outputs stay float32. Operators that have no half-precision form, and those that
    compute shapes and not images, stay FP32 with casts round them.

    Args:
        source: The FP32 file.
        path: The file to write; may be the source.
        precision: "fp16" or "bf16".

    Raises:
        DmcpError: The precision is none of these, the source is no sound ONNX file in FP32, has
            branches or loops, or a weight that is too large for the type; or the file cannot be
            written.
    """
    half = HALF_TYPES.get(precision)
    if half is None:
        raise DmcpError(f"The precision is {precision!r} and must be fp16 or bf16.")
    proto = _convertible(source, half)
    lowering = HalfGraph(proto.graph, tensor_types(proto, source), half, opset_of(proto))
    lowering.run()
    write_onnx(proto, path)
    return HalfReport(
        path=Path(path),
        digest=digest_file(path),
        precision=precision,
        opset=opset_of(proto),
        converted=tuple(lowering.converted),
        kept=tuple(lowering.kept),
        flushed_weights=lowering.flushed_weights,
        raised=lowering.raised,
    )


def overflowing_activations(
    source: Path, images: npt.NDArray[np.float32], limit: float = 65504.0
) -> dict[str, float]:
    """Returns the tensors of an FP32 network that exceed a limit, with their largest magnitude.

    Args:
        source: The ONNX file.
        images: [N, C, H, W], float32: real images, as noise has other activations.
        limit: The magnitude that is still allowed; the default is the largest FP16.

    Raises:
        DmcpError: The source is no sound ONNX file, or does not run on the images.
    """
    proto, file = read_onnx(source)
    batches = image_batches(file, images)
    names = _add_maxima(proto, tensor_types(proto, source))
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "maxima.onnx"
        write_onnx(proto, probe)
        with OnnxSession(probe) as session:
            maxima = np.max([session.run(batch) for batch in batches], axis=0)
    # Written so that NaN counts as over the limit.
    return {n: float(v) for n, v in zip(names, maxima, strict=True) if not v <= limit}


def _convertible(source: Path, half: HalfType) -> ModelProto:
    """Returns a source's graph, in an opset that has the half type."""
    proto, file = read_onnx(source)
    require_fp32(file)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    for node in proto.graph.node:
        if any(item.type in (item.GRAPH, item.GRAPHS) for item in node.attribute):
            raise DmcpError(
                f"{source} has a branch or loop ({node.op_type} {node_label(node)}), which cannot"
                f" be converted to {half.name}: export the network with fixed sizes."
            )
    if opset_of(proto) < half.lowest_opset:
        return _raise_opset(proto, half, source)
    return proto


def _raise_opset(proto: ModelProto, half: HalfType, source: Path) -> ModelProto:
    opset = half.lowest_opset
    try:
        raised = onnx.version_converter.convert_version(proto, opset)
    except (onnx.version_converter.ConvertError, RuntimeError, UnicodeDecodeError) as err:
        raise DmcpError(
            f"{source} has opset {opset_of(proto)}, {half.name} needs {opset}, and ONNX cannot"
            f" convert it ({reason_of(err)}): export it with opset {opset}."
        ) from err
    lowest = helper.find_min_ir_version_for(list(raised.opset_import))
    raised.ir_version = max(raised.ir_version, lowest)
    return raised


def _add_maxima(proto: ModelProto, types: Mapping[str, int]) -> list[str]:
    """Makes a graph return the largest magnitude of each float tensor, and returns their names."""
    graph = proto.graph
    names = [
        name for node in graph.node for name in node.output if types.get(name) == TensorProto.FLOAT
    ]
    one = numpy_helper.from_array(np.array([1], np.int64), "maxima:shape")
    graph.initializer.append(one)
    for index, name in enumerate(names):
        magnitude, largest = f"maxima:abs{index}", f"maxima:max{index}"
        graph.node.extend(
            [
                helper.make_node("Abs", [name], [magnitude]),
                helper.make_node("ReduceMax", [magnitude], [largest], keepdims=0),
                helper.make_node("Reshape", [largest, one.name], [f"maxima:{index}"]),
            ]
        )
    every = [f"maxima:{index}" for index in range(len(names))]
    graph.node.append(helper.make_node("Concat", every, ["maxima"], axis=0))
    del graph.output[:]
    shape = [len(names)]
    graph.output.append(helper.make_tensor_value_info("maxima", TensorProto.FLOAT, shape))
    return names
