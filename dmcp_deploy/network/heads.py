"""Which tensors make the logits: those that another number of classes changes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import fx, nn

from dmcp_deploy.network.aliases import names_of_tensors
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.upstream import upstream


def head_tensors(network: Network) -> frozenset[str]:
    """Returns the names of the tensors between the features and the logits, under all their names.

    They are those of the last layers with weights on every way to the output, wherever these are
    registered, and of what stands behind them.
    """
    aliases = names_of_tensors(network.model)
    heads = tuple(_heads(network))
    beginnings = tuple(f"{head}." for head in heads)
    members = [name for name in aliases if name in heads or name.startswith(beginnings)]
    return frozenset(other for name in members for other in aliases[name])


def _heads(network: Network) -> Iterator[str]:
    """Yields the paths of modules and bare parameters, from the output back to the last weights."""
    outputs = [node for node in network.graph.nodes if node.op == "output"]
    for node in upstream(outputs, partial(_has_weights, network)):
        if node.op in ("call_module", "get_attr"):
            yield str(node.target)


def _has_weights(network: Network, node: fx.Node) -> bool:
    """Returns whether a node multiplies by weights: a layer, or a function of a parameter."""
    if node.op == "call_module":
        return any(p.ndim > 1 for p in network.fetch(str(node.target)).parameters())
    bare = [n for n in node.all_input_nodes if n.op == "get_attr"]
    if node.op == "output" or not bare:
        return False
    tensors = (network.fetch(str(n.target)) for n in bare)
    return any(isinstance(t, nn.Parameter) and sum(s > 1 for s in t.shape) > 1 for t in tensors)
