"""What a published file says of a network's layers, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmcp_deploy.errors import DmcpError


@dataclass(frozen=True)
class LayerWidth:
    """What a file says of one layer.

    Attributes:
        name: The layer's name, as the file writes it.
        outputs: Channels it writes, or normalises; None if the file does not say.
        inputs: Channels it reads; None if the file does not say.
        size: Channels it writes in the full network; None if the file does not say.
    """

    name: str
    outputs: int | None
    inputs: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class PublishedPlan:
    """What a file says of a network.

    Attributes:
        form: The file's format.
        layers: What it says of each layer.
        order: For all convolutions in the order they run in, the names that stand for each, where
            the file names layers otherwise than the network does; None where names are the same.
        head: The name of the classifier, whose outputs are classes and no matter of the plan.
        complete: Whether layers that the file leaves out are missing, not kept whole.
    """

    form: str
    layers: tuple[LayerWidth, ...]
    order: tuple[tuple[str, ...], ...] | None = None
    head: str | None = None
    complete: bool = True


def channels(value: Any, what: str) -> int:
    """Returns a number of channels.

    Raises:
        DmcpError: It is no whole number above zero.
    """
    integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not integral or not 1 <= value < 2**31:
        raise DmcpError(
            f"{what} is {shortened(value)}, and a number of channels is a whole one from 1 on."
        )
    return int(value)


def shortened(value: Any) -> str:
    """Returns a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
