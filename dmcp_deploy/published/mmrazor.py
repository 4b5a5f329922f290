"""MMRazor's plans: JSON of channel units, and subnet files that list every layer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan, channels, shortened

FORM = "mmrazor"
HEAD = "head.fc"
_BACKBONE = "backbone."  # what is behind it is named as in torchvision's ResNets

#: A unit is named by its first layer, the range of that layer's channels, and its size.
_UNIT = re.compile(
    r"(?P<layer>[\w.]+)_\((?P<first>\d{1,9}), (?P<end>\d{1,9})\)_(?P<size>\d{1,9})", re.ASCII
)
_LAYER = re.compile(r"[\w.]+", re.ASCII)

#: A convolution of a MobileNetV2 block: stage, block within it, place within the block.
_BLOCK_CONV = re.compile(r"layer(\d{1,4})\.(\d{1,4})\.conv\.(\d)\.conv", re.ASCII)

#: The lines of a subnet file in YAML: names, each with words and whole numbers below it.
_YAML_NAME = re.compile(r"(?P<name>[\w.]+):", re.ASCII)
_YAML_NUMBER = re.compile(r" +(?P<name>\w+): *(?P<number>\d{1,9})", re.ASCII)

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
    content = _json(text) if text.lstrip().startswith(("{", "[")) else _yaml(text)
    mutator = content.get("channel_unit_cfg", content)
    units = mutator.get("units", mutator) if isinstance(mutator, dict) else None
    if not isinstance(units, dict) or not units:
        raise DmcpError("it names no channel units.")
    by_layer = not any(map(_UNIT.fullmatch, units))
    layers = tuple(_layers(units) if by_layer else map(_unit, units, units.values()))
    return PublishedPlan(
        FORM,
        layers,
        order=_execution_order([layer.name for layer in layers]),
        head=HEAD,
        complete=any(isinstance(choice, dict) for choice in units.values()),
    )


def _json(text: str) -> dict[str, Any]:
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


def _yaml(text: str) -> dict[str, dict[str, int]]:
    """Returns the mapping in a text of lines such as "name:", each followed by "  word: 12"."""
    content: dict[str, dict[str, int]] = {}
    current: dict[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].rstrip()
        if name := _YAML_NAME.fullmatch(line):
            current = content.setdefault(name["name"], {})
        elif current is not None and (word := _YAML_NUMBER.fullmatch(line)):
            current[word["name"]] = int(word["number"])
        elif line and line != "---":
            raise DmcpError(
                f"line {number} is {shortened(line)}, and subnet files have a layer's name and a"
                " colon there, or below it a word, a colon and a number."
            )
    return content


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
    return LayerWidth(match["layer"].removeprefix(_BACKBONE), outputs, size=size)


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
    layers: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        if not isinstance(value, dict) or not _LAYER.fullmatch(key):
            raise DmcpError(f"{shortened(key)} is {shortened(value)}, and no layer's channels.")
        ending = next((end for end in _MUTABLES if key.endswith(end)), None)
        if ending is not None:
            layer = layers.setdefault(key.removesuffix(ending), {})
            layer[_MUTABLES[ending]] = value.get("current_choice")
            if _MUTABLES[ending] == "outputs":
                layer["size"] = value.get("origin_channels")
        elif "out_channels" in value:
            layers[key] = {
                "outputs": value["out_channels"],
                "inputs": value.get("in_channels"),
                "size": value.get("raw_out_channels"),
            }
        else:
            raise DmcpError(f"{shortened(key)} does not say how many channels it has.")
    for name, stated in layers.items():
        numbers = {k: None if v is None else channels(v, name) for k, v in stated.items()}
        yield LayerWidth(name.removeprefix(_BACKBONE), **{"outputs": None, **numbers})


def _execution_order(names: Sequence[str]) -> tuple[tuple[str, str], ...] | None:
    """Returns the names of each convolution of a MobileNetV2 and its norm, in the order they run.

    A plan may name some of a block's convolutions only. One whose last place is 1 is depthwise
    and projection; every other one starts with an expansion. None if the names are of no
    MobileNetV2.
    """
    blocks: dict[tuple[int, int], int] = {}
    for match in filter(None, map(_BLOCK_CONV.fullmatch, names)):
        stage, block, place = (int(number) for number in match.groups())
        blocks[stage, block] = max(place, blocks.get((stage, block), 0))
    if not blocks:
        return None
    between = [
        f"layer{stage}.{block}.conv.{place}"
        for stage, block in sorted(blocks)
        for place in range(2 if blocks[stage, block] == 1 else 3)
    ]
    return tuple((f"{layer}.conv", f"{layer}.bn") for layer in ("conv1", *between, "conv2"))
