"""Operations whose results nothing uses, as of a head that a wrapper throws away."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx, nn

from dmcp_deploy.network.layers import rule_for
from dmcp_deploy.network.tracer import settled
from dmcp_deploy.network.upstream import upstream

_CHECKS = {settled, torch._assert, operator.setitem}


def drop_dead_code(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Removes from a graph what its output does not depend on.

    What writes in place, or checks a value, stays where what it writes to or looks at is alive.

    Args:
        graph: The graph, changed in place.
        modules: The modules that it calls, by name.

    Returns:
        What is called or read no more: modules that hold or may hold tensors, and parameters.
    """
    live = set(upstream(node for node in graph.nodes if node.op in ("placeholder", "output")))
    effects = [node for node in graph.nodes if _has_effect(node, modules)]
    while woken := [
        e for e in effects if e not in live and not live.isdisjoint(_touched(e, modules))
    ]:
        live.update([*upstream(woken, live.__contains__)])
    dead = [node for node in graph.nodes if node not in live]
    for node in reversed(dead):
        graph.erase_node(node)
    return tuple(dict.fromkeys(str(node.target) for node in dead if may_hold(node, modules)))


def _has_effect(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Returns whether a node does more than to return a value."""
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.startswith("__")
    if node.op == "call_module":
        called = modules[str(node.target)]
        inside = called.modules() if called._modules else (called,)
        return any(getattr(module, "inplace", False) for module in inside)
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    in_place = node.kwargs.get("inplace") or "out" in node.kwargs or name in _IN_PLACE
    return bool(in_place) or node.target in _CHECKS or (name.endswith("_") and name[0] != "_")


def _touched(node: fx.Node, modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """Returns the values that a node may write to or look at: those in front of it, back to layers.

    A layer with weights makes a tensor of its own, so nothing in front of it is touched.
    """

    def is_layer(source: fx.Node) -> bool:
        return source.op == "call_module" and may_hold(source, modules)

    return set(upstream(node.all_input_nodes, is_layer))


def may_hold(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Returns whether a node reads tensors of the network, or calls what may."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        rule = rule_for(module)
        return rule is None or rule.kind != "pass"
    return node.op == "get_attr"


_IN_PLACE = {f.__name__ for f in (operator.iadd, operator.isub, operator.imul, operator.itruediv)}
