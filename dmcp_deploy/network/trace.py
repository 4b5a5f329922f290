"""A network's forward pass as a graph: torch.fx, with opaque modules where tracing fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.layers import is_layer
from dmcp_deploy.network.shape_pass import describe


def trace_graph(model: nn.Module) -> tuple[fx.GraphModule, frozenset[str]]:
    """Returns the graph of a model in evaluation mode, and the modules left opaque in it.

    A module whose forward cannot be traced (control flow that depends on data, say) becomes one
    opaque node. Constants of the forward pass become attributes of the model: see
    `without_new_attributes`.

    Raises:
        DmcpError: The model's own forward cannot be traced.
    """
    opaque: set[str] = set()
    while True:
        try:
            graph = _Tracer(opaque).trace(model)
        except _UntraceableError as err:
            opaque.add(err.path)
        except Exception as err:
            # A foreign forward under a proxy may raise anything; no module is around this one
            # that could become opaque.
            raise DmcpError(
                f"torch.fx cannot trace the forward of {type(model).__name__}"
                f" ({describe(err)}): move its data-dependent part into a submodule."
            ) from err
        else:
            return fx.GraphModule(model, graph), frozenset(opaque)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keeps a model in evaluation mode, then gives every module back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def without_new_attributes(model: nn.Module) -> Iterator[None]:
    """Removes, at its end, what was hung on a model: torch.fx leaves tensor constants there."""
    before = set(model.__dict__)
    try:
        yield
    finally:
        for name in set(model.__dict__) - before:
            delattr(model, name)


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
