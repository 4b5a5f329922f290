"""Options that say which network it is, and at which size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import check, option
from dmcp_deploy.units import format_input, parse_input

#: Side of a square input that is given no other.
DEFAULT_SIDE = 224

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
    return option(
        None,
        least=least,
        in_recipe=True,
        otherwise=", or a shape with --input",
        help=f"Deployed side in pixels, of RGB squares; {DEFAULT_SIDE} if not given.",
    )


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
        input_size: Side of a square input in RGB; None is 224, or what `input` says.
        input: Channels, height and width of the deployed input: "1x28x28"; None is a square in RGB.
    """

    width_mult: float = option(1.0, in_recipe=True, help="Width of the full network.")
    input_size: int | None = input_size_option()
    input: str | None = option(
        None,
        in_recipe=True,
        later=True,
        help="Deployed input, channels x height x width, as in 1x28x28 or 3x480x640.",
    )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the deployed input; MACs are counted there.

        Raises:
            DmcpError: `input` is not understood, or contradicts `input_size`.
        """
        side = DEFAULT_SIDE if self.input_size is None else self.input_size
        if self.input is None:
            return (3, side, side)
        shape = parse_input(self.input)
        if self.input_size is not None and shape != (3, side, side):
            raise DmcpError(
                f"--input {self.input} and --input-size {side} (3x{side}x{side}) contradict each"
                " other: give one of them."
            )
        return shape


def input_words(shape: tuple[int, int, int]) -> dict[str, int | str]:
    """Returns the option that asks for an input, and its value."""
    if shape == (3, shape[2], shape[2]):
        return {"input_size": shape[2]}
    return {"input": format_input(shape)}


@dataclass(frozen=True)
class NetworkOptions(SizeOptions):
    """A network without data, which would tell its classes; bad values raise DmcpError.

    Attributes:
        classes: Length of the logits.
    """

    classes: int = option(1000, least=1, help="Length of the logits.")

    def __post_init__(self) -> None:
        check(self)
        _ = self.input_shape
