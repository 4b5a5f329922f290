"""What a graph's nodes are told of their values: shapes and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph_run import GraphRun
from dmcp_deploy.network.layers import is_stock
from dmcp_deploy.network.products import ProductCounter, reads_shape_alone
from dmcp_deploy.network.shape_pass import BATCH, MISFITS, ShapePass, call_for_shape
from dmcp_deploy.network.trace import Fetch, describe


def annotate_graph(graph: fx.Graph, shape_pass: ShapePass) -> None:
    """Gives every node of a graph three entries in its `meta`.

    "shape" is the shape of its value (a tuple for a tensor, a tuple of those for several, None
    for anything else; the batch is 2), "from_input" whether the value follows from the
    network's input, and "macs" the multiply-adds for one image of the products in it that the
    layer table does not know (see `products`).

    Args:
        graph: The graph of the model that `shape_pass` runs.
        shape_pass: Runs it on inputs of its size.

    Raises:
        DmcpError: The model does not take such an input.
    """
    try:
        shape_pass.run(lambda fetch, images: _annotate(graph, fetch, images))
    except MISFITS as err:
        size = "x".join(str(n) for n in shape_pass.input_shape)
        raise DmcpError(
            f"The network does not run on a {size} input ({describe(err)}):"
            " choose another --input-size."
        ) from err


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
            return self._fetch(str(node.target))
        target: Any = node.target
        if node.op == "call_method":
            target, args = getattr(args[0], target), args[1:]
        elif node.op == "call_module":
            target = self._fetch(target)
            if is_stock(target) and len(node.all_input_nodes) == 1:
                return self._passed_on(args, kwargs, call_for_shape(target, *args, **kwargs))
        before = self._counter.macs
        with self._counter:
            if self._counter.is_from_input(args[:1]) and not reads_shape_alone(node.target):
                value = call_for_shape(target, *args, **kwargs)
                value = self._counter.noted(value) if isinstance(value, Tensor) else value
            else:  # what the tables make of the first operand's shape would pass for a constant
                value = target(*args, **kwargs)
        node.meta["macs"] = (self._counter.macs - before) // BATCH
        return value

    def note(self, node: fx.Node, value: Any) -> None:
        node.meta["shape"] = _shape(value)
        node.meta["from_input"] = self._counter.is_from_input(value)

    def _passed_on(self, args: Any, kwargs: Any, value: Any) -> Any:
        follows = self._counter.is_from_input((args, kwargs))
        return self._counter.noted(value) if follows else value


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
