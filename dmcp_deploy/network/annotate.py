"""What a graph's nodes are told of their values: shapes and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from dmcp_deploy.network.graph_run import GraphRun
from dmcp_deploy.network.layer_rules import BATCH
from dmcp_deploy.network.layers import is_hooked, is_stock
from dmcp_deploy.network.shape_pass import Fetch, ShapePass, node_value


def annotate_graph(graph: fx.Graph, shape_pass: ShapePass) -> None:
    """Gives every node of a graph three entries in its `meta`.

    "shape" is the shape of its value (a tuple for a tensor, a tuple of those for several, None
    for anything else; the batch is 2), "value" the value itself if it is an integer, and "macs"
    the multiply-adds for one image of the convolutions and linear layers in it that the layer
    table does not know.

    Args:
        graph: The graph of the model that `shape_pass` runs.
        shape_pass: Runs it on inputs of its size.

    Raises:
        One of MISFITS: The model does not take such an input.
    """
    shape_pass.run(lambda fetch, images: _annotate(graph, fetch, images))


def _annotate(graph: fx.Graph, fetch: Fetch, images: Tensor) -> None:
    annotator = _Annotator(fetch)
    with _without_fused_attention():
        GraphRun(graph)(images, annotator.evaluate, annotator.note)


class _Annotator:
    """Runs a graph on a model's parts and notes what it meets."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def evaluate(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr" or self._is_known_layer(node):
            return node_value(node, args, kwargs, self._fetch)
        with _MacCounter() as counter:
            value = node_value(node, args, kwargs, self._fetch)
        node.meta["macs"] = counter.macs // BATCH
        return value

    def _is_known_layer(self, node: fx.Node) -> bool:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            return False
        module = self._fetch(str(node.target))
        return is_stock(module) and not is_hooked(module)

    def note(self, node: fx.Node, value: Any) -> None:
        node.meta["shape"] = _shape(value)
        node.meta["value"] = value if isinstance(value, int) else None


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Makes attention call its linear layers one by one: fused, they cannot be counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of convolutions and linear layers, without bias."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        count = _COUNTED.get(getattr(func, "overloadpacket", None))
        if count is None and torch.is_inference_mode_enabled():
            # Only there do composite operations, such as `linear`, come here in one piece.
            with self:
                value = func.decompose(*args, **(kwargs or {}))
            if value is not NotImplemented:
                return value
        value = func(*args, **(kwargs or {}))
        if count is not None:
            self.macs += count(value, *args)
        return value


def _convolution_macs(y: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    transposed = rest[4]
    positions = (x if transposed else y).shape[2:].numel()
    return x.shape[0] * positions * weight.numel()


def _addmm_macs(y: Tensor, bias: Tensor, x: Tensor, weight: Tensor) -> int:
    return _mm_macs(y, x, weight)


def _mm_macs(y: Tensor, x: Tensor, weight: Tensor) -> int:
    return x.shape[0] * weight.numel()


_COUNTED: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten.convolution: _convolution_macs,
    torch.ops.aten.addmm: _addmm_macs,
    torch.ops.aten.mm: _mm_macs,
}


def _shape(value: object) -> Any:
    if isinstance(value, Tensor):
        return tuple(int(n) for n in value.shape)
    if isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value):
        return tuple(_shape(item) for item in value)
    return None
