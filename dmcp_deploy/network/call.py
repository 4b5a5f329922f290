"""One operation of a graph, as the rules of the operation table see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from dmcp_deploy.network.channels import ChannelIds, Channels
from dmcp_deploy.network.rewrites import Rewrite

Value = Any  # Channels, None, or a list of them for an operation with several results.


@dataclass(frozen=True)
class Call:
    """One operation of the graph with what is known of its operands.

    Attributes:
        node: The operation.
        ids: The identities of all channels, to tie and to pin.
        values: The channels of what was computed before it.
        rewrites: Node name -> numbers of channels among its arguments, to add to.
    """

    node: fx.Node
    ids: ChannelIds
    values: Mapping[fx.Node, Value]
    rewrites: dict[str, Rewrite]

    @property
    def operand(self) -> Any:
        """The first operand."""
        return self.argument(0, "input")

    def channels(self, operand: object) -> Value:
        """Returns the channels of an operand; None for constants and untracked tensors."""
        return self.values.get(operand) if isinstance(operand, fx.Node) else None

    def shape(self, operand: object) -> Any:
        """Returns the shape of an operand; None for what is no tensor."""
        return operand.meta["shape"] if isinstance(operand, fx.Node) else None

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Returns an argument by position or name; "axis" is torch's other name for "dim"."""
        if place < len(self.node.args):
            return self.node.args[place]
        if name == "dim" and "axis" in self.node.kwargs:
            return self.node.kwargs["axis"]
        return self.node.kwargs.get(name, default)

    def axis(self, name: str = "dim", place: int = 1, default: int = 0) -> int:
        """Returns an axis of the first operand, from 0 up."""
        return int(self.argument(place, name, default)) % len(self.shape(self.operand))

    def key(self, place: int, *names: str) -> int | str:
        """Returns where an argument stands: its position, or the name that it is given by."""
        return next((name for name in names if name in self.node.kwargs), place)

    def axes(self, place: int = 1) -> set[int]:
        """Returns the axes that "dim" names, all of them if it names none."""
        ndim, dims = len(self.shape(self.operand)), self.argument(place, "dim")
        axes = range(ndim) if dims is None else [dims] if isinstance(dims, int) else dims
        return {a % ndim for a in axes}

    def rest(self, name: str) -> list[Any]:
        """Returns sizes or axes, written as one sequence or as arguments of their own."""
        rest = list(self.node.args[1:]) or [self.node.kwargs.get(name)]
        if len(rest) == 1 and isinstance(rest[0], tuple | list):
            return list(rest[0])
        return rest

    def rewrite(
        self, arguments: Mapping[int | str, Any], target: Callable[..., Any] | None = None
    ) -> None:
        """Takes note of numbers of channels among the arguments (see `Rewrite`)."""
        self.rewrites[self.node.name] = Rewrite(arguments, place(self.node), target)

    def pin_all(self, reason: str) -> None:
        """Keeps whole the channels of every operand."""
        for operand in self.node.all_input_nodes:
            self.ids.pin(self.channels(operand), reason)


def fits(value: Value, shape: Any) -> bool:
    """Returns whether channels may be those of a tensor, or tensors, of a shape."""
    if value is None:
        return True
    if isinstance(value, Channels):
        inside = value.axes[-1] < len(shape)
        return inside and tuple(shape[a] for a in value.axes) == value.ids.shape
    return len(value) == len(shape) and all(map(fits, value, shape))


def operation_name(node: fx.Node) -> str:
    """Returns what an operation is called in messages."""
    return str(getattr(node.target, "__name__", node.target))


def place(node: fx.Node) -> str:
    """Returns the module that an operation belongs to, or the operation's own name."""
    return module_path(node) or node.name


def module_path(node: fx.Node) -> str:
    """Returns the path of the module whose forward holds an operation; "" for the network's."""
    stack = node.meta.get("nn_module_stack") or {}
    path, _ = next(reversed(stack.values()), ("", None))
    return str(path)
