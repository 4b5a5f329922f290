"""What a graph's nodes are told of their values: shapes and multiply-adds."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from dmcp_deploy.network.graph_run import GraphRun
from dmcp_deploy.network.layer_rules import BATCH
from dmcp_deploy.network.layers import is_hooked, is_stock
from dmcp_deploy.network.products import ProductCounter, reads_shape_alone
from dmcp_deploy.network.shape_pass import Fetch, ShapePass, call_for_shape, node_value


def annotate_graph(graph: fx.Graph, shape_pass: ShapePass) -> None:
    """Gives every node of a graph four entries in its `meta`.

    "shape" is the shape of its value (a tuple for a tensor, a tuple of those for several, None
    for anything else; the batch is 2), "value" the value itself if it is an integer,
    "from_input" whether it follows from the network's input, and "macs" the multiply-adds for one
    image of the products in it that the layer table does not know (see `products`).

    Args:
        graph: The graph of the model that `shape_pass` runs.
        shape_pass: Runs it on inputs of its size.

    Raises:
        One of MISFITS: The model does not take such an input.
    """
    shape_pass.run(lambda fetch, images: _annotate(graph, fetch, images))


def _annotate(graph: fx.Graph, fetch: Fetch, images: Tensor) -> None:
    annotator = _Annotator(fetch, images)
    with _every_product_apart():
        GraphRun(graph)(images, annotator.evaluate, annotator.note)


class _Annotator:
    """Runs a graph on a model's parts and notes what it meets."""

    def __init__(self, fetch: Fetch, images: Tensor) -> None:
        self._fetch = fetch
        self._counter = ProductCounter(images)

    def evaluate(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            return node_value(node, args, kwargs, self._fetch)
        if self._is_known_layer(node):
            value = node_value(node, args, kwargs, self._fetch)
            follows = self._counter.is_from_input(args[0] if args else kwargs)
            return self._counter.noted(value) if follows else value
        before = self._counter.macs
        with self._counter:
            value = node_value(node, args, kwargs, self._fetch, self._call)
        if node.target is operator.setitem and self._counter.is_from_input(args[2]):
            self._counter.noted(args[0])
            node.args[0].meta["from_input"] = True  # type: ignore[union-attr]
        node.meta["macs"] = (self._counter.macs - before) // BATCH
        return value

    def _is_known_layer(self, node: fx.Node) -> bool:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            return False
        module = self._fetch(str(node.target))
        return is_stock(module) and not is_hooked(module)

    def note(self, node: fx.Node, value: Any) -> None:
        node.meta["shape"] = _shape(value)
        node.meta["value"] = value if isinstance(value, int) else None
        node.meta["from_input"] = self._counter.is_from_input(value)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns a call's value, of which it stays known whether it follows from the input.

        What the tables make of the first operand's shape alone would not tell.
        """
        is_method = isinstance(getattr(target, "__self__", None), Tensor)
        if is_method or reads_shape_alone(target) or not self._counter.is_from_input(args[:1]):
            return target(*args, **kwargs)
        value = call_for_shape(target, *args, **kwargs)
        return self._counter.noted(value) if isinstance(value, Tensor) else value


@contextmanager
def _every_product_apart() -> Iterator[None]:
    """Makes attention and einsum multiply one pair of tensors after the other.

    Fused, their products cannot be counted; einsum's are to be those that it is exported with.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.opt_einsum.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _shape(value: object) -> Any:
    if isinstance(value, Tensor):
        return tuple(int(n) for n in value.shape)
    if isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value):
        return tuple(_shape(item) for item in value)
    return None
