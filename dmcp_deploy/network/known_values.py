"""Values of a graph's nodes while it is traced, told from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from dmcp_deploy.network.layer_rules import BATCH
from dmcp_deploy.network.shape_pass import NEEDS_DATA, Fetch, ShapePass, node_value
from dmcp_deploy.network.upstream import upstream


class ValueAskedError(Exception):
    """Python asked for what shapes do not tell."""


class Values:
    """What Python may know of a traced network's values: whatever follows from shapes.

    Attributes:
        looking: Whether values are being computed just now, by the network's own modules.
    """

    def __init__(self, shape_pass: ShapePass) -> None:
        """Prepares for the network whose parts a shape pass runs."""
        self._pass = shape_pass
        self._known: dict[int, dict[fx.Node, Any]] = {}
        self.looking = False

    def read(self, node: fx.Node, read: Callable[[Any], Any]) -> Any:
        """Returns what a function reads from a node's value.

        Raises:
            ValueAskedError: It depends on the pixels, or on how many images there are.
        """
        answers: list[Any] = []

        def look(fetch: Fetch, images: Tensor) -> None:
            answers[:] = [
                read(self._value(node, fetch, images, count)) for count in (BATCH, BATCH + 1)
            ]

        try:
            with self._looking():
                self._pass.run(look, on_data=False)
        except NEEDS_DATA as err:
            raise ValueAskedError("its control flow depends on values of a tensor") from err
        one, other = answers
        if one != other:
            raise ValueAskedError("its Python code counts the images of a batch")
        return one

    def _value(self, node: fx.Node, fetch: Fetch, images: Tensor, count: int) -> Any:
        values = self._known.setdefault(count, {}) if images.is_meta else {}
        for step in _missing(node, values):
            if step.op == "placeholder":
                values[step] = images.new_empty(count, *images.shape[1:])
            else:
                args, kwargs = (
                    map_arg(part, values.__getitem__) for part in (step.args, step.kwargs)
                )
                values[step] = node_value(step, args, kwargs, fetch)
        return values[node]

    @contextmanager
    def _looking(self) -> Iterator[None]:
        self.looking = True
        try:
            yield
        finally:
            self.looking = False


def _missing(node: fx.Node, values: dict[fx.Node, Any]) -> list[fx.Node]:
    """Returns a node and what it is computed from, in order, without what is known."""
    needed = set(upstream([node], values.__contains__)) - values.keys()
    return [step for step in node.graph.nodes if step in needed]
