"""Options that say which network it is, and at which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmcp_deploy.options.declare import check, option

DEFAULT_ALIGN = 8  # half-precision tensor cores and CPU kernels work on multiples of 8 channels

MODEL_HELP = "torchvision name, timm:NAME or module:function."


def align_option() -> Any:
    """Returns the field of --align."""
    return option(
        DEFAULT_ALIGN,
        words={"auto": DEFAULT_ALIGN},
        least=1,
        in_recipe=True,
        help=f"Widths are multiples of it; auto = {DEFAULT_ALIGN}.",
    )


def input_size_option(least: int = 1) -> Any:
    """Returns the field of --input-size."""
    return option(224, least=least, in_recipe=True, help="Deployed side in pixels.")


@dataclass(frozen=True)
class ModelOption:
    """Which network.

    Attributes:
        model: A torchvision name, "timm:NAME" or "package.module:function".
    """

    model: str = option(in_recipe=True, help=MODEL_HELP)


@dataclass(frozen=True)
class SizeOptions:
    """How large a network is, and its input.

    Attributes:
        width_mult: The full network's width multiplier.
        input_size: Side of the deployed input in pixels; MACs are counted there.
    """

    width_mult: float = option(1.0, in_recipe=True, help="Width of the full network.")
    input_size: int = input_size_option()


@dataclass(frozen=True)
class NetworkOptions(SizeOptions):
    """A network without data, which would tell its classes; bad values raise DmcpError.

    Attributes:
        classes: Length of the logits.
    """

    classes: int = option(1000, least=1, help="Length of the logits.")

    def __post_init__(self) -> None:
        check(self)
