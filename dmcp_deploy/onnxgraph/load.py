"""An ONNX file's graph, as it is; that it is sound is checked where that matters."""

from __future__ import annotations

from collections.abc import MutableSequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmcp_deploy.errors import DmcpError, reason_of

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto


def load_onnx(path: Path, *, weights: bool = True) -> ModelProto:
    """Returns the graph of an ONNX file, its functions inlined.

    Args:
        path: The file.
        weights: Whether those in other files are read too.

    Raises:
        DmcpError: The onnx library is missing, or the file or one of its external weights is
            absent or damaged.
    """
    try:
        import onnx.inliner
        from google.protobuf.message import DecodeError
    except ImportError as err:
        raise DmcpError(
            f"Reading an ONNX file needs onnx ({reason_of(err)}): pip install"
            " dmcp-deploy[export], or onnx alone on a device."
        ) from err
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as err:
        raise DmcpError(f"There is no ONNX file {path}.") from err
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    except DecodeError as err:
        raise DmcpError(f"{path} is not an ONNX file: {reason_of(err)}.") from err
    check_names(model, path)
    if weights:
        load_weights(model, path)
    if not model.graph.node:
        raise DmcpError(f"{path} is not an ONNX file, or one without a single operator.")
    _check_operands(model, path)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def check_names(message: Message, path: Path) -> None:
    """Checks that all names in a graph are text; libraries stumble over those of a damaged file.

    Raises:
        DmcpError: One is not.
    """
    for field, value in message.ListFields():
        items = value if isinstance(value, MutableSequence) else [value]
        for item in items if field.message_type else []:
            check_names(item, path)
        odd = [i for i in items if isinstance(i, bytes)] if field.type == field.TYPE_STRING else []
        if odd:
            raise DmcpError(f"{path} is damaged: {odd[0]!r} is no text. Copy or export it again.")


def load_weights(proto: ModelProto, path: Path) -> tuple[str, ...]:
    """Reads the weights that lie in other files, and returns these files' names.

    Raises:
        DmcpError: One is missing, or smaller than it must be.
    """
    from onnx.checker import ValidationError
    from onnx.external_data_helper import (
        ExternalDataInfo,
        load_external_data_for_model,
        uses_external_data,
    )

    external = [ExternalDataInfo(t) for t in proto.graph.initializer if uses_external_data(t)]
    needed: dict[str, int] = {}
    for info in external:
        end = (info.offset or 0) + (info.length or 0)
        needed[info.location] = max(end, needed.get(info.location, 0))
    for location, size in needed.items():
        _check_weight_file(path, location, size)
    try:
        load_external_data_for_model(proto, str(path.parent))
    except (ValidationError, ValueError, OSError) as err:
        raise DmcpError(
            f"The weights of {path} cannot be read ({reason_of(err)}): export it as one file."
        ) from err
    return tuple(sorted(needed))


def _check_operands(model: ModelProto, path: Path) -> None:
    """Checks that the operators that are looked into have the inputs and outputs they need."""
    for node in model.graph.node:
        needed = _INPUTS.get(node.op_type, 0)
        if needed and (len(node.input) < needed or not node.output):
            raise DmcpError(
                f"{path} is damaged: a {node.op_type} has {len(node.input)} inputs and"
                f" {len(node.output)} outputs. Copy or export it again."
            )


def _check_weight_file(path: Path, location: str, size: int) -> None:
    file = path.parent / location
    present = file.stat().st_size if file.is_file() else None
    if present is None or present < size:
        state = "is missing" if present is None else f"has {present} of {size} bytes"
        raise DmcpError(
            f"{path} keeps its weights in {location}, which {state}: copy both files, or export"
            " the network as one file."
        )


#: Operator -> inputs that it has at least.
_INPUTS = {
    **dict.fromkeys(("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"), 1),
    **dict.fromkeys(("Add", "Conv", "ConvTranspose", "Gemm", "MatMul"), 2),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), 2),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), 3),
    "Einsum": 1,
}
