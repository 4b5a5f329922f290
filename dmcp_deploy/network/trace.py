"""A network's forward pass as a graph: torch.fx, with opaque modules where tracing fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import Tensor, fx, nn

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.layers import is_layer

#: Path -> the module, parameter or constant of a traced model that lies there.
Fetch = Callable[[str], Any]


@dataclass(frozen=True)
class Trace:
    """A model's forward pass in evaluation mode.

    Attributes:
        graph: Its operations, over the model's own modules and tensors.
        constants: What else the graph reads, by name: tensors that the forward pass makes of
            numbers.
        modules: The modules that the graph calls, and those inside them, by name.
        opaque: Modules that could not be traced (control flow that depends on data, say): each
            is one node.
    """

    graph: fx.Graph
    constants: Mapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    opaque: frozenset[str]


def trace_model(model: nn.Module) -> Trace:
    """Returns the trace of a model in evaluation mode; the model is left as it was.

    Raises:
        DmcpError: The model's own forward cannot be traced.
    """
    opaque: set[str] = set()
    attributes = set(model.__dict__)
    try:
        graph = _traced(model, opaque)
    finally:
        # torch.fx hangs constants on the model.
        new = {name: model.__dict__[name] for name in set(model.__dict__) - attributes}
        for name in new:
            delattr(model, name)
    constants = {name: value for name, value in new.items() if isinstance(value, Tensor)}
    return Trace(graph, constants, called_modules(model, graph), frozenset(opaque))


def called_modules(model: nn.Module, graph: fx.Graph) -> dict[str, nn.Module]:
    """Returns the modules that a model's graph calls, and those inside them, by name."""
    named = dict(model.named_modules())
    modules: dict[str, nn.Module] = {}
    for target in dict.fromkeys(n.target for n in graph.nodes if n.op == "call_module"):
        modules.update(named[target].named_modules(prefix=target))
    return modules


def fetch(model: nn.Module, known: Mapping[str, Any], target: str) -> Any:
    """Returns a module, parameter or constant of a traced model by its path in the graph.

    Args:
        model: The model.
        known: Path -> what lies there, of constants and perhaps of others.
        target: The path.
    """
    return known[target] if target in known else reduce(getattr, target.split("."), model)


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


def describe(err: BaseException) -> str:
    """Returns what an error of a forward pass says, or its type where it says nothing itself."""
    reason = reason_of(err)
    # torch.fx appends where it was; of an error without text nothing else is left.
    return type(err).__name__ if reason.startswith("While executing") else reason


def _traced(model: nn.Module, opaque: set[str]) -> fx.Graph:
    """Returns the graph of a model; adds to `opaque` the modules that cannot be traced."""
    while True:
        try:
            return _Tracer(opaque).trace(model)
        except _UntraceableError as err:
            opaque.add(err.path)
        except Exception as err:
            # A foreign forward under a proxy may raise anything; no module is around this one
            # that could become opaque.
            raise DmcpError(
                f"torch.fx cannot trace the forward of {type(model).__name__}"
                f" ({describe(err)}): move its data-dependent part into a submodule."
            ) from err


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
