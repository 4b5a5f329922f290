"""MMRazor's plans: JSON of channel units, and subnet files that list every layer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.mmrazor_names import execution_order, plain_name
from dmcp_deploy.published.mmrazor_yaml import read_mapping
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan, channels, shortened

FORM = "mmrazor"
HEAD = "head.fc"

#: A unit is named by its first layer, the range of that layer's channels, and its size.
_UNIT = re.compile(
    r"(?P<layer>[\w.]+)_\((?P<first>\d{1,9}), (?P<end>\d{1,9})\)_(?P<size>\d{1,9})", re.ASCII
)
_LAYER = re.compile(r"[\w.]+", re.ASCII)

#: Ends of the keys that a subnet file has for each layer -> what they state.
_MUTABLES = {
    ".mutable_out_channels": "outputs",
    ".mutable_num_features": "outputs",
    ".mutable_out_features": "outputs",
    ".mutable_in_channels": "inputs",
    ".mutable_in_features": "inputs",
}


def read_mmrazor(text: str) -> PublishedPlan:
    """Returns what a plan of MMRazor says.

    It is the JSON of a channel mutator, a mapping of its units alone (to settings with a choice,
    or to channels), or a subnet file (JSON or YAML) with every layer's channels. Where units are
    mapped to channels, those left out are kept whole.

    Raises:
        DmcpError: It is none of these.
    """
    content = _mapping(text)
    mutator = content.get("channel_unit_cfg", content)
    units = mutator.get("units", mutator) if isinstance(mutator, dict) else None
    if not isinstance(units, dict) or not units:
        raise DmcpError("it names no channel units.")
    by_layer = not any(map(_UNIT.fullmatch, units))
    layers = tuple(_layers(units) if by_layer else map(_unit, units, units.values()))
    return PublishedPlan(
        FORM,
        layers,
        order=execution_order([layer.name for layer in layers]),
        head=HEAD,
        complete=any(isinstance(choice, dict) for choice in units.values()),
    )


def _mapping(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith(("{", "[")):
        return read_mapping(text)
    try:
        content = json.loads(text, parse_int=_short)
    except (ValueError, RecursionError) as err:
        raise DmcpError(f"it is not readable as JSON ({err}).") from err
    if not isinstance(content, dict):
        raise DmcpError(f"it holds {shortened(content)} where MMRazor writes a mapping.")
    if "kind" in content and "schema_version" in content:
        raise DmcpError("it is a file of dmcp-deploy already (plan show shows plans).")
    return content


def _short(number: str) -> int:
    """Returns a whole number; to read one of very many digits takes very long."""
    if len(number) > 18:
        raise ValueError(f"a number begins with {number[:18]}")
    return int(number)


def _unit(name: str, choice: Any) -> LayerWidth:
    """Returns the width of a unit's first layer."""
    match = _UNIT.fullmatch(name)
    if match is None:
        raise DmcpError(
            f"{shortened(name)} is not named as MMRazor names its units, as in"
            " backbone.conv1_(0, 64)_64."
        )
    size = channels(int(match["size"]), name)
    if (int(match["first"]), int(match["end"])) != (0, size):
        raise DmcpError(f"{name} is a part of a layer, and only units of whole layers are read.")
    settings = choice if isinstance(choice, dict) else {"choice": choice}
    if "choice" not in settings:
        raise DmcpError(f"{name} has no choice, so it is a search space and no plan.")
    outputs = _chosen(settings["choice"], size, settings.get("init_args"), name)
    return LayerWidth(plain_name(match["layer"]), outputs, size=size)


def _chosen(choice: Any, size: int, settings: Any, name: str) -> int:
    """Returns the channels of a choice, which is a number of them or, as a float, a share."""
    if not isinstance(choice, float):
        return channels(choice, name)
    if not 0 < choice <= 1:
        raise DmcpError(f"{name} is {choice}, and a share of the channels lies above 0, up to 1.")
    settings = settings if isinstance(settings, dict) else {}
    divisor = channels(settings.get("divisor", 1), f"{name}: divisor")
    wanted = max(1, int(size * choice))
    # As MMRazor rounds on loading: to the nearest multiple, unless that takes too much away.
    rounded = max(
        channels(settings.get("min_value") or divisor, f"{name}: min_value"),
        (2 * wanted + divisor) // (2 * divisor) * divisor,
    )
    least = settings.get("min_ratio", 0.9)
    return rounded + divisor if isinstance(least, float) and rounded < least * wanted else rounded


def _layers(content: Mapping[str, Any]) -> Iterator[LayerWidth]:
    """Yields every layer of a subnet file."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        if not isinstance(value, dict) or not _LAYER.fullmatch(key):
            raise DmcpError(f"{shortened(key)} is {shortened(value)}, and no layer's channels.")
        ending = next((end for end in _MUTABLES if key.endswith(end)), None)
        if ending is not None:
            own = found.setdefault(key.removesuffix(ending), {})
            own[_MUTABLES[ending]] = value.get("current_choice")
            if _MUTABLES[ending] == "outputs":
                own["size"] = value.get("origin_channels")
        elif "out_channels" in value:
            found[key] = {
                "outputs": value["out_channels"],
                "inputs": value.get("in_channels"),
                "size": value.get("raw_out_channels"),
            }
        else:
            raise DmcpError(f"{shortened(key)} does not say how many channels it has.")
    for name, own in found.items():
        numbers = {
            what: None if value is None else channels(value, name) for what, value in own.items()
        }
        yield LayerWidth(plain_name(name), **{"outputs": None, **numbers})
