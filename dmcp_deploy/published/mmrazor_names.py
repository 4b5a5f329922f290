"""Layer names of OpenMMLab's classification networks, and the order their layers run in."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: A convolution of a MobileNetV2 block: stage, block within it, place within the block.
_BLOCK_CONV = re.compile(r"layer(\d{1,4})\.(\d{1,4})\.conv\.(\d)\.conv", re.ASCII)


def plain_name(name: str) -> str:
    """Returns a layer's name within its backbone; torchvision's ResNets have the same names."""
    return name.removeprefix("backbone.")


def execution_order(names: Sequence[str]) -> tuple[tuple[str, str], ...] | None:
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
