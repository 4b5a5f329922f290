"""What the values of a graph are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import fx


def upstream(
    nodes: Iterable[fx.Node], ends_at: Callable[[fx.Node], bool] = lambda _: False
) -> Iterator[fx.Node]:
    """Yields nodes and all that they are computed from, each once.

    Args:
        nodes: Where to begin.
        ends_at: Tells the nodes in front of which nothing is looked at; they are yielded too.
    """
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            if not ends_at(node):
                waiting.extend(node.all_input_nodes)
