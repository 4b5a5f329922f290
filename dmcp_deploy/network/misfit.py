"""What is said of a network that does not run on the images that it is asked to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.layer_rules import Shape
from dmcp_deploy.network.shape_pass import MISFITS, run_without_data
from dmcp_deploy.units import format_input

#: Sides of images that networks are made for, the most likely first.
_SIDES = (224, 32, 64, 28, 96, 128, 256, 299, 16, 48, 160, 192, 384, 512, 8)
_CHANNELS = (3, 1, 4)


def misfit(model: nn.Module, input_shape: Shape, err: BaseException) -> DmcpError:
    """Returns the error that tells why a network does not run, and what it does run on.

    Args:
        model: The network, in evaluation mode.
        input_shape: (C, H, W) that it does not take.
        err: What its forward pass raised.
    """
    said = f"The network does not run on a {format_input(input_shape)} input ({describe(err)})"
    other = next((shape for shape in _others(input_shape) if runs(model, shape)), None)
    if other is None:
        return DmcpError(f"{said}, nor on squares that were tried: give --input CxHxW.")
    name = format_input(other)
    return DmcpError(f"{said}, but it does on {name}: give --input {name}.")


def runs(forward: Callable[[Tensor], object], input_shape: Shape) -> bool:
    """Returns whether a forward pass runs on images [N, *input_shape]."""
    try:
        run_without_data(forward, input_shape)
    except MISFITS:
        return False
    return True


def describe(err: BaseException) -> str:
    """Returns what an error of a forward pass says, or its type where it says nothing itself."""
    reason = reason_of(err)
    # torch.fx appends where it was; of an error without text nothing else is left.
    return type(err).__name__ if reason.startswith("While executing") else reason


def _others(input_shape: Shape) -> Iterator[Shape]:
    channels, *sides = input_shape
    yield from ((channels, side, side) for side in _SIDES)
    yield from ((other, *sides) for other in _CHANNELS if other != channels)
