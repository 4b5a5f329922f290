"""What an engine's own layer information says: the precision that every layer really has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dmcp_deploy.errors import DmcpError

#: How the releases spell an element type -> our name; the first that matches holds.
_TYPES = (
    (re.compile(r"bf16|bfloat16", re.I), "bf16"),
    (re.compile(r"fp8|float8|e4m3", re.I), "fp8"),
    (re.compile(r"\bint8", re.I), "int8"),
    (re.compile(r"half|fp16|float16", re.I), "fp16"),
    (re.compile(r"float|fp32", re.I), "fp32"),
)
_RANK = ("int8", "fp8", "fp16", "bf16", "fp32")
#: Kinds of layers that compute nothing: their types say how data is moved.
_MOVES = re.compile(r"reformat|noop|constant|shuffle|copy|identity|signal|wait", re.I)
_LOG_FIELD = re.compile(r"(Name|LayerType): (.*?), (?=LayerType: |Inputs: )")
_LOG_TYPE = re.compile(r"Datatype: ([^,}]+)")
#: Of the layers that compute: fewer in the precision that was asked for is a silent fallback.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Layer:
    """One layer of an engine, fused of one or more ONNX nodes.

    Attributes:
        name: The engine's name for it.
        kind: The engine's layer type.
        precision: The narrowest element type of its inputs and outputs: "int8", "fp8", "fp16",
            "bf16", "fp32", or "other" where it works on none of these.
    """

    name: str
    kind: str
    precision: str

    def to_json(self) -> dict[str, str]:
        """Returns the layer as JSON values."""
        return asdict(self)


def layers_of_log(messages: Iterable[str]) -> list[Layer]:
    """Returns the layers that a detailed build log lists; none if it lists none.

    TensorRT-RTX writes them without a GPU, in one message that starts with "Layers:".
    """
    listings = [text for text in messages if text.startswith("Layers:")]
    lines = listings[-1].splitlines()[1:] if listings else []
    return [_logged_layer(line) for line in lines if line.startswith("Name: ")]


def layers_of_inspector(text: str) -> list[Layer]:
    """Returns the layers of an engine inspector's JSON.

    Raises:
        DmcpError: The text is no such JSON.
    """
    try:
        listed = json.loads(text)["Layers"]
        return [_inspected_layer(layer) for layer in listed if isinstance(layer, Mapping)]
    except (ValueError, KeyError, TypeError) as err:
        raise DmcpError(
            f"The engine inspector's answer is not understood ({type(err).__name__}: {err}): its"
            " layers' precisions cannot be confirmed."
        ) from err


def count_precisions(layers: Sequence[Layer]) -> dict[str, int]:
    """Returns precision -> layers that compute in it."""
    precisions = [layer.precision for layer in layers if not _MOVES.search(layer.kind)]
    return {name: precisions.count(name) for name in (*_RANK, "other") if name in precisions}


def confirm_precision(layers: Sequence[Layer], asked: str, what: str) -> dict[str, int]:
    """Checks that an engine computes in the precision that was asked for; returns the counts.

    An INT8 or FP8 network keeps layers of other types between its quantised ones; there the
    quantised layers must be there, and any in wider types are counted beside them.

    Args:
        layers: The engine's layers.
        asked: "fp32", "fp16", "bf16", "int8" or "fp8".
        what: The engine, for the message.

    Raises:
        DmcpError: The engine tells nothing of its layers, or fell back to another precision.
    """
    counts = count_precisions(layers)
    typed = sum(count for name, count in counts.items() if name != "other")
    if not typed:
        raise DmcpError(
            f"{what} tells nothing of its layers' types, so its precision {asked} cannot be"
            " confirmed: build it with a release that does."
        )
    least = 1 if asked in ("int8", "fp8") else max(1, round(LEAST_SHARE * typed))
    narrower = asked == "fp32" and counts.get("fp32", 0) < typed
    if counts.get(asked, 0) < least or narrower:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise DmcpError(
            f"{what} was asked for in {asked}, and its layers are {told}: TensorRT fell back, so"
            " the engine is not kept."
        )
    return counts


def _logged_layer(line: str) -> Layer:
    fields = dict(_LOG_FIELD.findall(line))
    tensors = line.partition("Constants: ")
    outputs = tensors[2].partition("Outputs: ")[2]
    types = _LOG_TYPE.findall(tensors[0]) + _LOG_TYPE.findall(outputs)
    return Layer(fields.get("Name", ""), fields.get("LayerType", ""), _narrowest(types))


def _inspected_layer(layer: Mapping[str, Any]) -> Layer:
    tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
    # Up to 10.x a tensor's type stands in one field with its layout.
    types = [
        str(tensor.get("Datatype", tensor.get("Format/Datatype", "")))
        for tensor in tensors
        if isinstance(tensor, Mapping)
    ]
    return Layer(str(layer.get("Name", "")), str(layer.get("LayerType", "")), _narrowest(types))


def _narrowest(types: Iterable[str]) -> str:
    """Returns the narrowest of the types that are spelt so, by our name."""
    names = {next((n for pattern, n in _TYPES if pattern.search(text)), "other") for text in types}
    return next((name for name in _RANK if name in names), "other")
