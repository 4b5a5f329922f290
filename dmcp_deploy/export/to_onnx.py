"""Dense network -> simplified, checked ONNX."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, ValueInfoProto
from torch import nn

from dmcp_deploy.artifact import atomic_path, digest_file
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.quiet import quiet
from dmcp_deploy.export.small_constants import optimized
from dmcp_deploy.network.trace import evaluating
from dmcp_deploy.onnxgraph.file import opset_of

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"
#: The exporter delivers 18 whatever lower number it is asked for.
LOWEST_OPSET = 18
#: Batch 1 is what torch.export is most likely to take for a constant.
_DYNAMIC_EXAMPLE_BATCH = 2
#: What ONNX raises on a graph that is not sound.
_UNSOUND = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError)


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX file and what is in it.

    Attributes:
        path: The file, weights included.
        opset: Version of the standard operators, read from the file.
        batch: The fixed batch size; None if the file takes any.
        onnx_bytes: Size of the file.
        nodes: Operators in the graph.
        digest: SHA-256 of the file, as "sha256:<hex>".
        simplified: Whether onnxsim's graph was kept; False: the exporter's own was.
    """

    path: Path
    opset: int
    batch: int | None
    onnx_bytes: int
    nodes: int
    digest: str
    simplified: bool


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, int, int],
    batch: int | None = None,
    opset: int = 20,
    metadata: Mapping[str, str] = {},
) -> OnnxExport:
    """Returns the ONNX file of a network in eval mode, written in one step.

    The graph maps "input" [N, C, H, W] (float32) to "logits" [N, classes] (float32). It carries no
    path, code line or time of this machine, so that the same network gives the same bytes.

    Args:
        model: The dense network; its train and eval modes are as before afterwards.
        path: The file to write.
        input_shape: (C, H, W).
        batch: A fixed batch size; None leaves the axis open, by the name of "batch".
        opset: Version of the standard operators, 18 or newer.
        metadata: Pairs to write into the file.

    Raises:
        DmcpError: A library is missing, the network does not run on the input or is not float32,
            the exporter cannot take it, or the file cannot be written.
    """
    _check_request(model, batch, opset)
    # The file is opened first: a folder that cannot be written to is found before the export.
    with atomic_path(path) as part:
        proto, simplified = _build(model, input_shape, batch, opset)
        _label(proto, metadata)
        part.write_bytes(proto.SerializeToString(deterministic=True))
    return OnnxExport(
        path=Path(path),
        opset=opset_of(proto),
        batch=batch,
        onnx_bytes=Path(path).stat().st_size,
        nodes=len(proto.graph.node),
        digest=digest_file(path),
        simplified=simplified,
    )


def _build(
    model: nn.Module, input_shape: tuple[int, int, int], batch: int | None, opset: int
) -> tuple[ModelProto, bool]:
    """Returns the checked graph, and whether it is the simplified one."""
    model = _contiguous(model)
    with evaluating(model), torch.no_grad(), quiet():
        example = _example_input(model, input_shape, batch)
        exported = _export(model, example, batch, opset)
        _check_graph(exported, batch, input_shape, opset)
        simplified = _simplify(exported, example)
    if simplified is not None and _same_interface(simplified, exported):
        return simplified, True
    return exported, False


def _contiguous(model: nn.Module) -> nn.Module:
    """Returns a network whose weights lie in the usual order, a copy if need be.

    Of weights in channels-last order torch 2.9 exports a graph for more than one image alone.
    """
    if all(weight.is_contiguous() for weight in model.parameters()):
        return model
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def _check_request(model: nn.Module, batch: int | None, opset: int) -> None:
    if importlib.util.find_spec("onnxscript") is None:
        raise DmcpError(
            "Exporting needs onnxscript, which is not installed: pip install dmcp-deploy[export]."
        )
    if batch is not None and batch < 1:
        raise DmcpError(f"The fixed batch size is {batch} and must be 1 or more.")
    if opset < LOWEST_OPSET:
        raise DmcpError(f"The opset is {opset}, and the exporter writes {LOWEST_OPSET} or newer.")
    other = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if other:
        raise DmcpError(
            f"The network's weights are {other.pop()}, and export takes float32: call .float()."
        )


def _example_input(
    model: nn.Module, input_shape: tuple[int, int, int], batch: int | None
) -> torch.Tensor:
    """Returns an input [N, C, H, W] on which the network has been seen to run."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    example = torch.randn(batch or _DYNAMIC_EXAMPLE_BATCH, *input_shape, generator=rng).to(device)
    shape = list(example.shape)
    try:
        output = model(example)
    except (RuntimeError, ValueError, IndexError) as err:
        raise DmcpError(
            f"The network does not run on an input {shape}: {_root_reason(err)}."
        ) from err
    if not isinstance(output, torch.Tensor):
        raise DmcpError(
            f"The network returns a {type(output).__name__} and export takes networks that return"
            " one tensor of logits: wrap it in a module that does."
        )
    return example


def _export(model: nn.Module, example: torch.Tensor, batch: int | None, opset: int) -> ModelProto:
    axes = ({0: torch.export.Dim(BATCH_AXIS, min=1)},) if batch is None else None
    try:
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=axes,
            optimize=False,
        )
    except torch.onnx.errors.OnnxExporterError as err:
        hint = "" if batch is not None else "; a fixed batch size may help"
        raise DmcpError(
            f"The ONNX exporter cannot take {type(model).__name__} ({_root_reason(err)}){hint}."
        ) from err
    assert program is not None
    return optimized(program)


def _check_graph(
    proto: ModelProto, batch: int | None, input_shape: tuple[int, int, int], opset: int
) -> None:
    problem = _checker_problem(proto)
    if problem:
        raise DmcpError(f"The exported graph fails ONNX's own check: {problem}.")
    if opset_of(proto) != opset:
        raise DmcpError(
            f"Opset {opset} was asked and the exporter delivered {opset_of(proto)}: choose a"
            " version that the installed onnx and onnxscript know."
        )
    axis = BATCH_AXIS if batch is None else batch
    shapes = [_dims(value) for value in (*proto.graph.input, *proto.graph.output)]
    if shapes[0] != [axis, *input_shape] or shapes[1][:1] != [axis]:
        raise DmcpError(
            f"The exported graph maps {shapes[0]} to {shapes[1]}, not a batch to its logits: the"
            " network fixes its batch size somewhere; export it with that fixed batch size."
        )


def _simplify(proto: ModelProto, example: torch.Tensor) -> ModelProto | None:
    """Returns onnxsim's graph, compared with the given one on one input; None if there is none."""
    try:
        import onnxsim
    except ImportError:
        return None
    try:
        # An input of ours: onnxsim would draw its own from numpy's global generator.
        result, same = onnxsim.simplify(
            proto, check_n=1, input_data={INPUT_NAME: example.cpu().numpy()}
        )
    except (RuntimeError, ValueError, *_UNSOUND):
        return None
    return result if same else None


def _same_interface(proto: ModelProto, exported: ModelProto) -> bool:
    """Tells whether a simplified graph is valid and has the exporter's inputs and outputs."""
    ours, theirs = (
        [(value.name, _dims(value)) for value in (*graph.input, *graph.output)]
        for graph in (proto.graph, exported.graph)
    )
    return ours == theirs and opset_of(proto) == opset_of(exported) and not _checker_problem(proto)


def _label(proto: ModelProto, metadata: Mapping[str, str]) -> None:
    """Writes the metadata, and drops what the exporter noted of this machine's files."""
    del proto.graph.metadata_props[:]
    for value in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    for end in (*proto.graph.input, *proto.graph.output):
        del end.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(metadata))


def _checker_problem(proto: ModelProto) -> str:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except _UNSOUND as err:
        return reason_of(err)
    return ""


def _dims(value: ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _root_reason(err: BaseException) -> str:
    while err.__cause__ is not None:
        err = err.__cause__
    return reason_of(err)
