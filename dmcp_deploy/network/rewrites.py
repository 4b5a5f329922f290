"""Numbers of channels that a forward pass writes down, told anew at every width."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx
from torch.fx.node import map_aggregate

from dmcp_deploy.network.channels import Ids
from dmcp_deploy.network.layer_rules import BATCH


class Written:
    """Stands for what the forward pass itself writes in that place."""


WRITTEN = Written()


@dataclass(frozen=True, eq=False)
class Count:
    """Stands for a number of channels.

    Attributes:
        units: The unit number of every channel, shape (d1, ..., dk) of an axis that a reshape has
            split; identities while the groups are not yet known.
        dim: The dimension whose kept positions are counted.
        batched: Whether the axis also counts images, of which there may be any number.
    """

    units: Ids
    dim: int = 0
    batched: bool = False


@dataclass(frozen=True)
class Counter:
    """Tells numbers of channels.

    Attributes:
        extent: Returns how many positions of an axis are kept, for a batch of BATCH images.
        images: How many images there are, or the node of a graph that tells.
    """

    extent: Callable[[Count], int]
    images: int | fx.Node

    def __call__(self, count: Count) -> Any:
        """Returns how many positions there are, or the node of a graph that tells."""
        kept = self.extent(count)
        if not count.batched:
            return kept
        if isinstance(self.images, int):
            return self.images * kept // BATCH
        graph = self.images.graph
        with graph.inserting_after(self.images):
            return graph.call_function(operator.mul, (self.images, kept // BATCH))


@dataclass(frozen=True)
class Rewrite:
    """Arguments of one operation in place of those that the forward pass writes.

    Attributes:
        arguments: Position or name -> a number or a nest of them, with a `Count` for every number
            of channels and WRITTEN for what stays.
        place: Where the operation stands, for messages.
        target: A function to call in place of the operation, with its first operand and just
            these arguments; None if it is the operation itself.
    """

    arguments: Mapping[int | str, Any]
    place: str
    target: Callable[..., Any] | None = None

    def numbered(self, number: Callable[[Ids], Ids]) -> Rewrite:
        """Returns it with unit numbers in place of identities."""

        def leaf(value: Any) -> Any:
            if isinstance(value, Count):
                return replace(value, units=number(value.units))
            return value

        arguments = {place: map_aggregate(v, leaf) for place, v in self.arguments.items()}
        return replace(self, arguments=arguments)

    def apply(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], count: Counter
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of a call with the numbers of channels that are kept.

        Args:
            args: The operation's arguments: values, or nodes of a graph.
            kwargs: Its keyword arguments.
            count: Tells those numbers.
        """
        if self.target is not None:
            values = [_filled(v, WRITTEN, count) for v in self.arguments.values()]
            return (args[0], *values), {}
        places, names = list(args), dict(kwargs)
        for place, template in self.arguments.items():
            kept: Any = places if isinstance(place, int) else names
            kept[place] = _filled(template, kept[place], count)
        return tuple(places), names

    def changes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], count: Counter) -> bool:
        """Returns whether the operation's own arguments are others at the kept widths."""
        if self.target is not None:
            return True
        new, names = self.apply(args, kwargs, count)
        return any(map(_differ, new, args)) or any(_differ(names[k], kwargs[k]) for k in names)


def _filled(template: Any, written: Any, count: Counter) -> Any:
    """Returns a template with its numbers, and with what is written where it says so."""
    if isinstance(template, Written):
        return written
    if isinstance(template, Count):
        return count(template)
    if isinstance(template, slice):
        ends = ((getattr(template, e), getattr(written, e)) for e in ("start", "stop", "step"))
        return slice(*(_filled(end, now, count) for end, now in ends))
    if isinstance(template, tuple | list):
        filled = [_filled(t, _item(written, i), count) for i, t in enumerate(template)]
        return tuple(filled) if isinstance(template, tuple) else filled
    return template


def _item(written: Any, place: int) -> Any:
    """Returns one of several values; of a size that a graph computes, a node that reads it."""
    if isinstance(written, tuple | list):
        return written[place]
    if isinstance(written, fx.Node):
        with written.graph.inserting_after(written):
            return written.graph.call_function(operator.getitem, (written, place))
    return WRITTEN


def _differ(new: Any, written: Any) -> bool:
    if isinstance(new, list) and isinstance(written, int):
        # One size of all parts but the last, which may have less.
        return any(size != written for size in new[:-1]) or new[-1] > written
    if isinstance(new, tuple | list) and isinstance(written, tuple | list):
        return any(map(_differ, new, written))
    return isinstance(new, int | slice) and bool(new != written)
