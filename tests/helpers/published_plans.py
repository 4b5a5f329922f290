"""Published plans in the formats they are published in, made of their widths.

The widths of `DMCP_MOBILENET` and `DMCP_RESNET50` are those of two plans of the DMCP authors, which
MMRazor (Apache-2.0) converted and published in configs/pruning/mmcls/dmcp; those of
`AUTOSLIM_MOBILENET` are AutoSlim's smallest MobileNetV2, published there as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Stem; the first block; for each stage its first inner width, its own, its other inner widths;
#: the last convolution. Searched on the network of width 1.5.
DMCP_MOBILENET = (
    *(9, 10),
    *(36, 16, 16),
    *(48, 21, 41, 22),
    *(60, 24, 44, 272, 272),
    *(310, 36, 294, 351),
    *(693, 80, 96, 864),
    *(960, 192),
    1280,
)
#: The groups of the network of width 1, in the same order.
MOBILENET_SIZES = (
    *(32, 16),
    *(96, 24, 144),
    *(144, 32, 192, 192),
    *(192, 64, 384, 384, 384),
    *(384, 96, 576, 576),
    *(576, 160, 960, 960),
    *(960, 320),
    1280,
)
AUTOSLIM_MOBILENET = (
    *(8, 8),
    *(96, 16, 96),
    *(96, 24, 144, 144),
    *(144, 48, 288, 288, 288),
    *(288, 64, 432, 432),
    *(648, 176, 720, 720),
    *(1440, 280),
    1920,
)
#: Stem; for each stage both inner widths of its first block, its own, the others' inner widths.
DMCP_RESNET50 = (
    52,
    *(22, 22, 106, 16, 16, 40, 16),
    *(68, 56, 155, 32, 68, 56, 56, 80, 92),
    *(256, 256, 1024, 106, 106, 131, 256, 131, 256, 256, 256, 256, 256),
    *(512, 512, 2048, 512, 461, 512, 512),
)
MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
RESNET50_STAGES = (3, 4, 6, 3)


def mobilenet_dict(widths: Sequence[int]) -> dict[str, Any]:
    """Returns the dictionary in which the DMCP authors save a MobileNetV2 of 25 widths."""
    following = iter(widths)
    stem = inputs = next(following)
    content: dict[str, Any] = {"conv1": stem}
    for stage, blocks in enumerate(MOBILENET_STAGES):
        for block in range(blocks):
            inner = next(following) if stage else inputs
            outputs = inputs if block else next(following)
            expansion = {"conv1": (inputs, inner)} if stage else {}
            parts = {**expansion, "conv2": (inner, inner), "conv3": (inner, outputs)}
            content[str(len(content) - 1)] = parts
            inputs = outputs
    return {**content, "conv_last": (inputs, next(following))}


def resnet50_dict(widths: Sequence[int]) -> dict[str, Any]:
    """Returns the dictionary in which the DMCP authors save a ResNet-50 of 37 widths."""
    following = iter(widths)
    stem = inputs = next(following)
    content: dict[str, Any] = {"conv1": stem}
    for stage, blocks in enumerate(RESNET50_STAGES, 1):
        parts = {}
        for block in range(blocks):
            first, second = next(following), next(following)
            outputs = inputs if block else next(following)
            parts[str(block)] = {
                "conv1": (inputs, first),
                "conv2": (first, second),
                "conv3": (second, outputs),
            }
            inputs = outputs
        content[f"layer{stage}"] = parts
    return {**content, "fc": inputs}


def resnet18_dict(stages: Sequence[tuple[int, int, int]], stem: int) -> dict[str, Any]:
    """Returns a ResNet-18's: for each stage its own width and both inner widths."""
    content: dict[str, Any] = {"conv1": stem}
    inputs = stem
    for number, (width, *inner) in enumerate(stages, 1):
        content[f"layer{number}"] = {}
        for block, middle in enumerate(inner):
            content[f"layer{number}"][str(block)] = {
                "conv1": (inputs, middle),
                "conv2": (middle, width),
            }
            inputs = width
    return {**content, "fc": inputs}


def save_npy(path: Path, content: Any) -> Path:
    """Saves a dictionary as the authors' release does."""
    np.save(path, content, allow_pickle=True)
    return path


def mobilenet_units(widths: Iterable[int | float], sizes: Iterable[int]) -> dict[str, Any]:
    """Returns MMRazor's channel units of a MobileNetV2, in the order of its groups."""
    names = ["conv1.conv", "layer1.0.conv.1.conv"]
    for stage, blocks in enumerate(MOBILENET_STAGES[1:], 2):
        names += [f"layer{stage}.0.conv.0.conv", f"layer{stage}.0.conv.2.conv"]
        names += [f"layer{stage}.{block}.conv.0.conv" for block in range(1, blocks)]
    return units(zip([*names, "conv2.conv"], widths, sizes, strict=True))


def resnet50_units(widths: Iterable[int | float]) -> dict[str, Any]:
    """Returns MMRazor's channel units of a ResNet-50, in the order of its groups."""
    rows = [("conv1", 64)]
    for stage, blocks in enumerate(RESNET50_STAGES, 1):
        inner = 32 << stage
        for block in range(blocks):
            rows += [(f"layer{stage}.{block}.conv{place}", inner) for place in (1, 2)]
            rows += [] if block else [(f"layer{stage}.0.conv3", 4 * inner)]
    return units((name, width, size) for (name, size), width in zip(rows, widths, strict=True))


def units(rows: Iterable[tuple[str, int | float, int]]) -> dict[str, Any]:
    """Returns MMRazor's channel units from layer, choice and size."""
    return {
        f"backbone.{name}_(0, {size})_{size}": {
            "init_args": {"num_channels": size, "choice_mode": "number", "divisor": 1},
            "choice": choice,
        }
        for name, choice, size in rows
    }


def mutator(channel_units: Mapping[str, Any]) -> str:
    """Returns the JSON of a plan of MMRazor."""
    settings = {"type": "DMCPChannelUnit", "default_args": {"choice_mode": "number"}}
    return json.dumps(
        {
            "type": "DMCPChannelMutator",
            "channel_unit_cfg": {**settings, "units": dict(channel_units)},
            "parse_cfg": {"type": "ChannelAnalyzer", "demo_input": [1, 3, 224, 224]},
        }
    )


def mobilenet_subnet(widths: Sequence[int], sizes: Sequence[int], old: bool = False) -> str:
    """Returns MMRazor's YAML of every layer of a MobileNetV2; `old` as its releases 0.x wrote it.

    As a YAML library writes them, the names are in alphabetical order.
    """
    entries: dict[str, dict[str, int]] = {}
    for (name, inputs, outputs), (_, whole_inputs, whole) in zip(
        _convolutions(widths), _convolutions(sizes), strict=True
    ):
        conv, norm = f"{name}.conv", f"{name}.bn"
        if old:
            entries[norm] = {"out_channels": outputs, "raw_out_channels": whole}
            entries[conv] = {
                **{"in_channels": inputs, "out_channels": outputs},
                **{"raw_in_channels": whole_inputs, "raw_out_channels": whole},
            }
            continue
        for key, now, before in (
            (f"{norm}.mutable_num_features", outputs, whole),
            (f"{conv}.mutable_in_channels", inputs, whole_inputs),
            (f"{conv}.mutable_out_channels", outputs, whole),
        ):
            entries[key] = {"current_choice": now, "origin_channels": before}
    return "".join(
        f"backbone.{name}:\n" + "".join(f"  {word}: {number}\n" for word, number in entry.items())
        for name, entry in sorted(entries.items())
    )


def _convolutions(widths: Sequence[int]) -> list[tuple[str, int, int]]:
    """Returns name, inputs and outputs of every convolution of OpenMMLab's MobileNetV2."""
    content = mobilenet_dict(widths)
    rows = [("conv1", 3, content["conv1"])]
    numbers = iter(range(len(content)))
    for stage, blocks in enumerate(MOBILENET_STAGES, 1):
        for block in range(blocks):
            pairs = content[str(next(numbers))].values()
            rows += [(f"layer{stage}.{block}.conv.{i}", *pair) for i, pair in enumerate(pairs)]
    return [*rows, ("conv2", *content["conv_last"])]
