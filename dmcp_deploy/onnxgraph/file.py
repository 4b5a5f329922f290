"""What an ONNX file holds, checked before a runtime sees it.

TensorRT parses an empty file without an error, and takes operator sets that it does not know and
inputs that it silently converts: what it would not say is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from dmcp_deploy.artifact import atomic_path, digest_files, near_file
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.onnxgraph.load import check_names, load_weights
from dmcp_deploy.onnxgraph.precision import graph_precision, infer_types

#: The operator sets that TensorRT documents: 9 to 20 for 10.0, 9 to 24 from 10.15 on.
LOWEST_OPSET = 9
HIGHEST_OPSET = 24
#: Protocol buffers, and thereby ONNX's checker and shape inference, end here.
LARGEST_BYTES = 2**31 - 1

#: Where a file notes which kind of runtime it was quantised for.
PRESET_KEY = "dmcp_deploy.quantization"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that maps images to logits.

    Attributes:
        path: The file.
        digest: SHA-256 of the file, and of the files of its external weights if it has any.
        opset: Version of the standard operators.
        input_name: The image input.
        input_shape: (N, C, H, W) of the input; None where the file leaves the axis open.
        output_name: The logits: the first output.
        precision: One of `registry.PRECISIONS`, read from the graph: of its quantising operators,
            or else of the weights of its convolutions and linear layers.
        preset: What it was quantised for: "tensorrt" or "cpu"; None if not by this package.
        weight_files: Names of the files of external weights, from the file's folder on.
        metadata: What else the file says of itself, by name.
    """

    path: Path
    digest: str
    opset: int
    input_name: str
    input_shape: tuple[int | None, int | None, int | None, int | None]
    output_name: str
    precision: str
    preset: str | None = None
    weight_files: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def batch(self) -> int | None:
        """The fixed batch size; None if the file takes any."""
        return self.input_shape[0]


def inspect_onnx(path: Path) -> OnnxFile:
    """Returns what an ONNX file holds: one float32 input [N, C, H, W], float32 outputs.

    Raises:
        DmcpError: The file or one of its external weights is absent, empty or damaged, its opset
            is not one of 9 to 24, its inputs or outputs are others, its graph fails ONNX's own
            check, or it is quantised to a type that is none of `registry.PRECISIONS`.
    """
    return read_onnx(path)[1]


def read_onnx(path: Path) -> tuple[ModelProto, OnnxFile]:
    """Returns the graph of an ONNX file with its weights, and what it holds.

    Raises:
        DmcpError: As `inspect_onnx`.
    """
    path = Path(path)
    content = _read(path)
    proto = _parse(content, path)
    opset = _checked_opset(proto, path)
    _check_not_empty(proto.graph, path)
    image, shape = _image_input(proto.graph, path)
    _check_outputs(proto.graph, path)
    weight_files = load_weights(proto, path)
    check_graph(proto.SerializeToString() if weight_files else content, path)
    metadata = {item.key: item.value for item in proto.metadata_props}
    return proto, OnnxFile(
        path=path,
        digest=digest_files([path, *(path.parent / name for name in weight_files)]),
        weight_files=weight_files,
        opset=opset,
        input_name=image.name,
        input_shape=shape,
        output_name=proto.graph.output[0].name,
        precision=graph_precision(proto.graph, tensor_types(proto, path), path),
        preset=metadata.get(PRESET_KEY),
        metadata=metadata,
    )


def require_fp32(file: OnnxFile) -> None:
    """Checks that a file can be converted to another precision.

    Raises:
        DmcpError: It has been already.
    """
    if file.precision != "fp32":
        raise DmcpError(
            f"{file.path} is {file.precision} already: give the fp32 file that it was made from."
        )


def write_onnx(proto: ModelProto, path: Path) -> None:
    """Writes a graph that passes ONNX's full check, in one step; equal graphs give equal bytes.

    Raises:
        DmcpError: The graph fails the check, is too large for one file, or cannot be written.
    """
    try:
        content = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as err:
        raise DmcpError(f"{path} cannot be written as one ONNX file: {reason_of(err)}.") from err
    check_graph(content, path)
    tensor_types(proto, path)
    with atomic_path(path) as part:
        part.write_bytes(content)


def check_graph(content: bytes, path: Path) -> None:
    """Checks a serialised graph against the ONNX standard, but for its tensors' types.

    Raises:
        DmcpError: It breaks a rule.
    """
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as err:
        raise _unsound(path, err) from err


def tensor_types(proto: ModelProto, path: Path) -> dict[str, int]:
    """Returns the element type of every tensor of a graph, as ONNX infers it.

    Args:
        proto: The graph.
        path: Where it comes from, for the message.

    Raises:
        DmcpError: Types or shapes contradict one another.
    """
    try:
        return infer_types(proto)
    except (onnx.shape_inference.InferenceError, UnicodeDecodeError) as err:
        raise _unsound(path, err) from err


def opset_of(proto: ModelProto) -> int:
    """Returns the version of the standard operators; 0 if the file names none."""
    return next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), 0)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DmcpError(f"There is no ONNX file {path}{near_file(path)}")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_BYTES else b""
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    if size > LARGEST_BYTES:
        raise DmcpError(f"{path} has {size} bytes, and an ONNX file has {LARGEST_BYTES} at most.")
    if not content:
        raise DmcpError(f"{path} is empty: copy or export it again.")
    return content


def _parse(content: bytes, path: Path) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as err:
        raise DmcpError(
            f"{path} is no ONNX file, or a part of one ({len(content)} bytes): copy or export it"
            " again."
        ) from err
    check_names(proto, path)
    return proto


def _unsound(path: Path, err: Exception) -> DmcpError:
    return DmcpError(f"{path} fails ONNX's own check ({reason_of(err)}): export it again.")


def _checked_opset(proto: ModelProto, path: Path) -> int:
    opset = opset_of(proto)
    if not opset:
        raise DmcpError(
            f"{path} is no ONNX file: it names no version of the standard operators. Copy or"
            " export it again."
        )
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise DmcpError(
            f"{path} has opset {opset}, and TensorRT takes {LOWEST_OPSET} to {HIGHEST_OPSET}:"
            " export it with one of these."
        )
    return opset


def _check_not_empty(graph: GraphProto, path: Path) -> None:
    for what, items in (("operators", graph.node), ("outputs", graph.output)):
        if not items:
            raise DmcpError(f"{path} has 0 {what}, and a network has some: export it again.")


def _image_input(
    graph: GraphProto, path: Path
) -> tuple[ValueInfoProto, tuple[int | None, int | None, int | None, int | None]]:
    """Returns the one input that is no weight, and its shape."""
    # Files of old versions list their weights among the inputs.
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) == 1 and _is_float32(inputs[0]):
        sizes = [_size(dim) for dim in inputs[0].type.tensor_type.shape.dim]
        if len(sizes) == 4:
            batch, channels, height, width = sizes
            return inputs[0], (batch, channels, height, width)
    taken = ", ".join(map(_describe, inputs)) or "nothing"
    raise DmcpError(
        f"{path} takes {taken}, where one float32 input [N, C, H, W] is needed: export the"
        " network with that input alone."
    )


def _check_outputs(graph: GraphProto, path: Path) -> None:
    for output in graph.output:
        if not _is_float32(output):
            raise DmcpError(
                f"{path} returns {_describe(output)}, where float32 is needed: export the network"
                " with float32 outputs."
            )


def _is_float32(value: ValueInfoProto) -> bool:
    is_tensor = value.type.HasField("tensor_type")
    return is_tensor and value.type.tensor_type.elem_type == TensorProto.FLOAT


def _describe(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    shape = ", ".join(str(dim.dim_param or _size(dim) or "?") for dim in tensor.shape.dim)
    return f"{value.name} {TensorProto.DataType.Name(tensor.elem_type).lower()} [{shape}]"


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    # Some exporters write 0 or -1 for an open axis.
    return dim.dim_value if dim.dim_value > 0 else None
