"""The DMCP authors' channel dictionaries: one dict, saved by numpy as an array of objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.pickles import read_pickle
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan, channels, shortened

MAGIC = b"\x93NUMPY"
FORM = "npy"
_HEADER = re.compile(
    rb"\{'descr': '(?P<kind>[^']*)', 'fortran_order': (False|True),"
    rb" 'shape': (?P<shape>\([^)]*\)),? ?\} *\n"
)


def read_npy(data: bytes) -> PublishedPlan:
    """Returns what a channel dictionary of the authors' release says.

    The dictionary's pickle is read as data; nothing of it is run. A ResNet's has "conv1", "fc",
    and "layer1" to "layer4" -> block -> convolution -> (inputs, outputs); a MobileNetV2's has
    "conv1", "conv_last", and block -> convolution -> (inputs, outputs).

    Raises:
        DmcpError: It is no .npy file of one dictionary, or not the authors'.
    """
    content = read_pickle(_pickled(data))
    if not isinstance(content, dict):
        raise DmcpError(f"it holds {shortened(content)} where the authors save a dictionary.")
    if "layer1" in content:
        return _resnet(content)
    if "conv_last" in content:
        return _mobilenet(content)
    raise DmcpError(
        f"Its dictionary has the keys {shortened(list(content))}, and the authors' have layer1 (a"
        " ResNet) or conv_last (a MobileNetV2)."
    )


def _pickled(data: bytes) -> bytes:
    """Returns the pickle within a .npy file."""
    # After the magic: the version in two bytes, then the header's length, since 2.0 in four.
    start = 10 if data[6:7] == b"\x01" else 12
    end = start + int.from_bytes(data[8:start], "little")
    header = _HEADER.fullmatch(data[start:end])
    if not data.startswith(MAGIC) or header is None:
        raise DmcpError("it has no header of a .npy file.")
    kind, shape = (header[part].decode("ascii", "replace") for part in ("kind", "shape"))
    if (kind, shape) != ("|O", "()"):
        raise DmcpError(
            f"it holds an array of type {kind[:20]!r} and shape {shape[:40]} where the authors save"
            " a dictionary."
        )
    return data[end:]


def _resnet(content: Mapping[Any, Any]) -> PublishedPlan:
    stages = sorted(key for key in content if re.fullmatch(r"layer\d", str(key)))
    layers = [LayerWidth("conv1", channels(content.get("conv1"), "conv1"))]
    for stage in stages:
        for block, parts in _blocks(content[stage], stage):
            layers += [_conv(f"{stage}.{block}", name, parts[name]) for name in sorted(parts)]
    layers.append(LayerWidth("fc", None, channels(content.get("fc"), "fc")))
    return PublishedPlan(FORM, tuple(layers), head="fc")


def _mobilenet(content: Mapping[Any, Any]) -> PublishedPlan:
    layers = [LayerWidth("conv1", channels(content.get("conv1"), "conv1"))]
    numbered = {key: value for key, value in content.items() if key not in ("conv1", "conv_last")}
    for block, parts in _blocks(numbered, "the dictionary"):
        layers += [_conv(block, name, parts[name]) for name in sorted(parts)]
    last = content["conv_last"]
    layers.append(LayerWidth("conv_last", *_outputs_inputs(last, "conv_last")))
    return PublishedPlan(FORM, tuple(layers), order=tuple((layer.name,) for layer in layers))


def _blocks(content: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns the blocks of a part of the dictionary in the order of their numbers."""
    if not isinstance(content, dict) or not all(map(_is_block, content, content.values())):
        raise DmcpError(
            f"in {where} there is {shortened(content)}, and the authors have numbered blocks there."
        )
    return sorted(((str(key), parts) for key, parts in content.items()), key=lambda b: int(b[0]))


def _is_block(key: Any, parts: Any) -> bool:
    named = isinstance(parts, dict) and all(re.fullmatch(r"conv\d", str(name)) for name in parts)
    return named and re.fullmatch(r"[0-9]{1,4}", str(key)) is not None


def _conv(block: str, name: str, pair: Any) -> LayerWidth:
    return LayerWidth(f"{block}.{name}", *_outputs_inputs(pair, f"{block}.{name}"))


def _outputs_inputs(pair: Any, name: str) -> tuple[int, int]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DmcpError(
            f"{name} is {shortened(pair)} where the authors write (inputs, outputs) of a layer."
        )
    inputs, outputs = (channels(value, name) for value in pair)
    return outputs, inputs
