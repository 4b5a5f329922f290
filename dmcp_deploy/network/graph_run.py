"""A run of a graph, node by node, with as little around it as can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

#: (node, the values of its arguments, those of its keyword arguments) -> its value.
Evaluate = Callable[[fx.Node, Any, Any], Any]
#: (node, its value) -> nothing.
Note = Callable[[fx.Node, Any], None]


class GraphRun:
    """Runs a graph in order and drops every value after its last use."""

    def __init__(self, graph: fx.Graph) -> None:
        """Prepares what is the same in every run."""
        self._steps = _with_last_uses(graph)

    def __call__(self, images: Tensor, evaluate: Evaluate, note: Note | None = None) -> Any:
        """Returns the graph's output.

        Args:
            images: Its input.
            evaluate: Computes the value of a node other than the input and the output.
            note: Is told of every value.
        """
        values: dict[fx.Node, Any] = {}
        result: Any = images
        for node, unused in self._steps:
            args = map_arg(node.args, values.__getitem__)
            if node.op == "placeholder":
                result = images
            elif node.op == "output":
                result = args[0]
            else:
                result = evaluate(node, args, map_arg(node.kwargs, values.__getitem__))
            values[node] = result
            if note is not None:
                note(node, result)
            del args
            for source in unused:
                del values[source]
        return result


def _with_last_uses(graph: fx.Graph) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Returns the nodes in order, each with those whose values nothing reads after it."""
    seen: set[fx.Node] = set()
    steps = []
    for node in reversed(graph.nodes):
        last = [source for source in node.all_input_nodes if source not in seen]
        seen.update(last)
        steps.append((node, last))
    return steps[::-1]
