"""A network's forward pass as a graph: torch.fx, with opaque modules where tracing fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, fx, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.dead_code import drop_dead_code
from dmcp_deploy.network.known_values import ValueAskedError, Values
from dmcp_deploy.network.layer_rules import Shape
from dmcp_deploy.network.layers import is_layer
from dmcp_deploy.network.misfit import describe, misfit, runs
from dmcp_deploy.network.modes import Extra, follow_modes, noted_readers
from dmcp_deploy.network.shape_pass import ShapePass
from dmcp_deploy.network.tracer import UntraceableError, traced_graph


@dataclass(frozen=True)
class Trace:
    """A model's forward pass in evaluation mode.

    Attributes:
        graph: Its operations, over the model's own modules and tensors. What differs in training
            mode by an argument alone follows the mode of the module that the operation is in.
        constants: What else the graph reads, by name: tensors that the forward pass makes of
            numbers.
        modules: The modules that the graph calls, and those inside them, by name.
        opaque: Modules that could not be traced (control flow that depends on data, say) -> why:
            each is one node.
        dropped: Modules that may hold tensors, and parameters, that the forward pass reads in vain:
            its output does not depend on them, and the graph is without them.
        extra: What the forward pass does in training mode alone, and the graph does not.
    """

    graph: fx.Graph
    constants: Mapping[str, Tensor]
    modules: Mapping[str, nn.Module]
    opaque: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    extra: Extra = field(default_factory=Extra)


def trace_model(model: nn.Module, input_shape: Shape) -> Trace:
    """Returns the trace of a model in evaluation mode; the model is left as it was.

    Args:
        model: The model, in evaluation mode.
        input_shape: (C, H, W) of the images that it is traced for.

    Raises:
        DmcpError: The model's own forward needs more than images, or cannot be traced.
    """
    _check_arguments(model)
    opaque: dict[str, str] = {}
    named = dict(model.named_modules())
    with noted_readers() as readers:
        graph, constants = _traced(model, input_shape, opaque)
    dropped = drop_dead_code(graph, named)
    extra = Extra()
    if readers:
        training = _traced_in_training(model, input_shape, dict(opaque))
        if training is not None:
            drop_dead_code(training, named)
            extra = follow_modes(graph, training, named)
    return Trace(graph, constants, called_modules(model, graph), opaque, dropped, extra)


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


@contextmanager
def restored(model: nn.Module) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Gives a model's modules back the attributes and buffers that they had.

    Yields:
        What returns the tensors that torch.fx has hung on the model, by name.
    """
    traced = [module for module in model.modules() if not is_layer(module)]
    attributes = [(module, dict(module.__dict__)) for module in traced]
    buffers = [b for module in traced for b in module._buffers.values() if b is not None]
    values = [buffer.clone() for buffer in buffers]
    caches = [
        (value, dict(value))
        for _, kept in attributes
        for name, value in kept.items()
        if isinstance(value, dict) and not name.startswith("_")
    ]

    def new() -> dict[str, Tensor]:
        names = model.__dict__.keys() - attributes[0][1].keys()
        return {n: v for n in names if isinstance(v := model.__dict__[n], Tensor)}

    try:
        yield new
    finally:
        for module, kept in attributes:
            module.__dict__.clear()
            module.__dict__.update(kept)
        for cache, before in caches:
            cache.clear()
            cache.update(before)
        with torch.no_grad():
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)


def _check_arguments(model: nn.Module) -> None:
    if model._forward_pre_hooks:
        return  # They may fill arguments in.
    parameters = [*inspect.signature(model.forward).parameters.values()]
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in fixed]
    first = parameters[0].name if parameters else ""
    missing = [p.name for p in needed if p.name != first]
    if missing:
        raise DmcpError(
            f"The forward of {type(model).__name__} needs {', '.join(missing)} beside its images:"
            " give what it needs default values, or wrap it in a module that takes images alone."
        )


def _traced_in_training(
    model: nn.Module, input_shape: Shape, opaque: dict[str, str]
) -> fx.Graph | None:
    """Returns the graph in training mode, or None where it cannot be traced."""
    model.train()
    try:
        return _traced(model, input_shape, opaque)[0]
    except DmcpError:
        return None
    finally:
        model.eval()


def _traced(
    model: nn.Module, input_shape: Shape, opaque: dict[str, str]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Returns graph and constants; adds to `opaque` the modules that cannot be traced."""
    shape_pass = ShapePass(partial(fetch, model, {}), input_shape)
    while True:
        with restored(model) as new:
            try:
                graph = traced_graph(model, opaque, Values(shape_pass))
                return graph, new()
            except UntraceableError as err:
                opaque[err.path] = str(err)
            except ValueAskedError as err:
                raise DmcpError(
                    f"The forward of {type(model).__name__} cannot be traced, since {err}: move"
                    " that part into a submodule, which is then kept whole."
                ) from err
            except Exception as err:
                # A foreign forward under a proxy may raise anything; no module is around this
                # one that could become opaque.
                if not runs(model, input_shape):
                    raise misfit(model, input_shape, err) from err
                raise DmcpError(
                    f"torch.fx cannot trace the forward of {type(model).__name__}"
                    f" ({describe(err)}): move what it cannot trace into a submodule, which is"
                    " then kept whole."
                ) from err
