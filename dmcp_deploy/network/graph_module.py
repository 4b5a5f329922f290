"""A dense network whose forward pass is its graph, with its numbers of channels rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import fx, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.rewrites import Count, Counter
from dmcp_deploy.network.trace import fetch


def graph_module(
    network: Network, dense: nn.Module, extent: Callable[[Count], int]
) -> fx.GraphModule:
    """Returns a module that runs a network's graph on the parts of its dense model.

    Parameters and buffers keep their names. What the graph does not reach is not in it.

    Args:
        network: The full network.
        dense: A copy of its model with narrowed layers; it is taken apart.
        extent: Returns how many positions of an axis are kept.
    """
    for name, value in network.constants.items():
        dense.register_buffer(name, value.clone(), persistent=False)
    module = fx.GraphModule(dense, _rewritten(network, extent), type(dense).__name__)
    for owner, name in _transient_buffers(dense, module):
        owner._non_persistent_buffers_set.add(name)
    return module


def _rewritten(network: Network, extent: Callable[[Count], int]) -> fx.Graph:
    """Returns a copy of a network's graph that counts channels as they are kept."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    counter = Counter(extent, 0)
    for node in network.graph.nodes:
        copies[node] = copy = graph.node_copy(node, copies.__getitem__)
        copy.meta.clear()
        if node.op == "placeholder":
            counter = Counter(extent, graph.call_method("size", (copy, 0)))
        rewrite = network.rewrites.get(node.name)
        if rewrite is None:
            continue
        args, kwargs = rewrite.apply(copy.args, copy.kwargs, counter)
        if rewrite.target is not None:
            copy.op, copy.target = "call_function", rewrite.target
        copy.args, copy.kwargs = args, kwargs
    if isinstance(counter.images, fx.Node) and not counter.images.users:
        graph.erase_node(counter.images)
    return graph


def _transient_buffers(dense: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yields those buffers of a module that the dense model leaves out of its state."""
    for path, owner in module.named_modules():
        source = fetch(dense, {"": dense}, path)
        for name in owner._buffers:
            if name in source._non_persistent_buffers_set:
                yield owner, name
