"""A network's forward pass as a graph: torch.fx, with opaque modules where tracing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.layers import is_layer

Shape = tuple[int, ...]


def trace_graph(model: nn.Module, input_shape: Shape) -> tuple[fx.GraphModule, frozenset[str]]:
    """Returns the graph of a model in evaluation mode, and the modules left opaque in it.

    A module whose forward cannot be traced (control flow that depends on data, say) becomes one
    opaque node. Every node carries the shape of its value in `meta["shape"]`: a tuple for a
    tensor, a tuple of those for several, None for anything else; the batch is 2.

    Args:
        model: The network; its training mode is left as it was.
        input_shape: (C, H, W) of its input.

    Raises:
        DmcpError: The model's own forward cannot be traced, or does not take such an input.
    """
    training = model.training
    model.eval()
    try:
        graph, opaque = _trace(model)
        module = fx.GraphModule(model, graph)
        _annotate_shapes(module, input_shape)
    finally:
        model.train(training)
    return module, frozenset(opaque)


class _UntraceableError(Exception):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class _Tracer(fx.Tracer):
    def __init__(self, opaque: set[str]) -> None:
        super().__init__()
        self._opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = module_qualified_name in self._opaque or is_layer(m)
        return leaf or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except _UntraceableError:
            raise
        except Exception as err:
            # A foreign forward under a proxy may raise anything; the module becomes opaque.
            raise _UntraceableError(self.path_of_module(m)) from err


def _trace(model: nn.Module) -> tuple[fx.Graph, set[str]]:
    opaque: set[str] = set()
    while True:
        try:
            return _Tracer(opaque).trace(model), opaque
        except _UntraceableError as err:
            opaque.add(err.path)
        except Exception as err:
            raise DmcpError(
                f"torch.fx cannot trace the forward of {type(model).__name__}"
                f" ({_first_line(err)}): move its data-dependent part into a submodule."
            ) from err


class _ShapeRecorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["shape"] = _shape(value)
        return value


def _annotate_shapes(module: fx.GraphModule, input_shape: Shape) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        image = torch.empty(2, *input_shape)
        try:
            _ShapeRecorder(module).run(image)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as err:
            size = "x".join(str(n) for n in input_shape)
            raise DmcpError(
                f"The network does not run on a {size} input ({_first_line(err)}):"
                " choose another --input-size."
            ) from err


def _shape(value: object) -> Any:
    if isinstance(value, Tensor):
        return tuple(int(n) for n in value.shape)
    if isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value):
        return tuple(_shape(item) for item in value)
    return None


def _first_line(err: BaseException) -> str:
    text = str(err).strip().splitlines()
    return text[0][:160] if text else type(err).__name__
