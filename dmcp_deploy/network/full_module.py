"""What is trained of a network at full width."""

from __future__ import annotations

from torch import fx, nn

from dmcp_deploy.network.graph import Network


def full_module(network: Network) -> nn.Module:
    """Returns a module that computes logits in both modes, on the network's own tensors.

    It is the model itself but where that does something else in training mode (a head that there
    is in training alone, say): then it is the graph, over the same layers.
    """
    if not network.only_in_training:
        return network.model
    root = nn.Module()
    root.__dict__.update(network.model.__dict__)
    root.__dict__["_buffers"] = {**network.model._buffers, **network.constants}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    return fx.GraphModule(root, graph, type(network.model).__name__).train(network.model.training)
