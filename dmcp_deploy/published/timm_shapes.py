"""timm's text of shapes, as in its _pruned folder: "conv_stem.weight:[32, 3, 3, 3]***..."."""

from __future__ import annotations

import re

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan, channels, shortened

FORM = "timm"
_ENTRY = re.compile(r"(?P<name>[\w.]+):\[(?P<shape>(\d{1,9}(, ?\d{1,9})*)?)\]", re.ASCII)

#: timm's ResNets list the matrices they were pruned by as well; no layer has these names.
_HELPER = re.compile(r"layer\d+_\d+_conv\d+_M")


def read_timm(text: str) -> PublishedPlan:
    """Returns what a text of parameter names and shapes says.

    Raises:
        DmcpError: It is not written so.
    """
    layers = []
    for entry in text.strip().split("***"):
        name, shape = _parsed(entry)
        layer, _, parameter = name.rpartition(".")
        if parameter == "weight" and shape and not _HELPER.fullmatch(layer):
            inputs = shape[1] if len(shape) > 1 else None
            layers.append(LayerWidth(layer, shape[0], inputs))
    if not layers:
        raise DmcpError("it names no weight of any layer.")
    return PublishedPlan(FORM, tuple(layers))


def _parsed(entry: str) -> tuple[str, list[int]]:
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise DmcpError(
            f"it has {shortened(entry)} where timm writes a name and a shape, as in"
            " conv_stem.weight:[32, 3, 3, 3]."
        )
    numbers = match["shape"].split(",") if match["shape"] else []
    return match["name"], [channels(int(number), match["name"]) for number in numbers]
