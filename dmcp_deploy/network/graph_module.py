"""A dense network whose forward pass is its graph."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.trace import fetch


def graph_module(network: Network, dense: nn.Module) -> fx.GraphModule:
    """Returns a module that runs a network's graph on the parts of its dense model.

    Parameters and buffers keep their names. What the graph does not reach is not in it.

    Args:
        network: The full network.
        dense: A copy of its model with narrowed layers; it is taken apart.
    """
    for name, value in network.constants.items():
        dense.register_buffer(name, value.clone(), persistent=False)
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    module = fx.GraphModule(dense, graph, type(dense).__name__)
    for owner, name in _transient_buffers(dense, module):
        owner._non_persistent_buffers_set.add(name)
    return module


def _transient_buffers(dense: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yields those buffers of a module that the dense model leaves out of its state."""
    for path, owner in module.named_modules():
        source = fetch(dense, {"": dense}, path)
        for name in owner._buffers:
            if name in source._non_persistent_buffers_set:
                yield owner, name
