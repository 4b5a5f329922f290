"""Where the search's gates sit: behind what normalises, or behind a bare convolution."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import fx, nn

from dmcp_deploy.network.layers import WEIGHTED, is_activation, is_norm, rule_for
from dmcp_deploy.network.trace import Trace

_ACTIVATIONS = {
    *(F.relu, F.relu6, F.hardtanh, F.hardswish, F.silu, F.gelu, F.leaky_relu, F.elu, F.mish),
    *(torch.relu, "relu", "relu_"),
}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}


def gate_nodes(trace: Trace) -> Iterator[fx.Node]:
    """Yields the nodes whose values the search multiplies by the gates of their channels.

    A normalisation cancels the scale of what it reads, so a gate works only behind it. Gated
    are the ends of (normalisation, activation) chains, and of (convolution or linear,
    activation) chains whose result some layer reads before anything normalises it. A branch
    that ends as a factor of other activations (the scale of a squeeze-and-excite block) has no
    gate of its own: what it scales has one.
    """
    modules = trace.modules
    for node in trace.graph.nodes:
        if node.op != "call_module":
            continue
        module = modules[str(node.target)]
        weighted = _is_weighted(module)
        if not (is_norm(module) or (weighted and _read_unnormalised(node, modules))):
            continue
        end = _behind_activation(node, modules)
        if not (weighted and _is_factor(end, modules)):
            yield end


def weighted_ends(trace: Trace) -> Iterator[fx.Node]:
    """Yields the ends of all (convolution or linear, activation) chains: places for a gate."""
    modules = trace.modules
    for node in trace.graph.nodes:
        if node.op == "call_module" and _is_weighted(modules[str(node.target)]):
            yield _behind_activation(node, modules)


def _is_weighted(module: nn.Module) -> bool:
    rule = rule_for(module)
    return rule is not None and rule.kind in WEIGHTED


def _read_unnormalised(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Returns whether some weighted layer reads a value with no normalisation in between."""
    waiting, seen = list(node.users), set()
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.op == "call_module":
            module = modules[str(user.target)]
            if is_norm(module):
                continue
            if _is_weighted(module):
                return True
        waiting.extend(user.users)
    return False


def _behind_activation(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node:
    while len(node.users) == 1:
        user = next(iter(node.users))
        if not _activates(user, modules):
            break
        node = user
    return node


def _activates(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return is_activation(modules[str(node.target)])
    return node.target in _ACTIVATIONS


def _is_factor(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Returns whether a value reaches a product of activations through unary operations alone."""
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        others = [source for source in node.all_input_nodes if source is not before]
        if node.target in _PRODUCTS and others and all(map(_is_parameter, others)):
            continue
        if node.target in _PRODUCTS and others:
            return True
        weighted = node.op == "call_module" and not is_activation(modules[str(node.target)])
        if weighted or others:
            return False
    return False


def _is_parameter(node: fx.Node) -> bool:
    """Returns whether a value is a parameter of the network, perhaps in another shape."""
    while node.op in ("call_method", "call_function") and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"
