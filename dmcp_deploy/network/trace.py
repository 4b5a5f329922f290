"""A network's forward pass as a graph: torch.fx, with opaque modules where tracing fails."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils.flop_counter import FlopCounterMode

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.layers import is_layer

Shape = tuple[int, ...]

#: What a forward pass may raise that does not fit its input, or its narrowed layers.
MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)

_BATCH = 2
_NEEDS_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


def trace_graph(model: nn.Module, input_shape: Shape) -> tuple[fx.GraphModule, frozenset[str]]:
    """Returns the graph of a model in evaluation mode, and the modules left opaque in it.

    A module whose forward cannot be traced (control flow that depends on data, say) becomes one
    opaque node. Every node carries two entries in `meta`: "shape", the shape of its value (a
    tuple for a tensor, a tuple of those for several, None for anything else; the batch is 2),
    and "macs", the multiply-adds of its convolutions and linear layers for one image.

    Args:
        model: The network; it is left as it was.
        input_shape: (C, H, W) of its input.

    Raises:
        DmcpError: The model's own forward cannot be traced, or does not take such an input.
    """
    with evaluating(model), _without_new_attributes(model):
        graph, opaque = _trace(model)
        module = fx.GraphModule(model, graph)
        _annotate(graph, model, input_shape)
    return module, frozenset(opaque)


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


def try_out(
    model: nn.Module, run: Callable[[nn.Module, Tensor], object], input_shape: Shape
) -> None:
    """Runs a model's forward pass on a batch of 2 for its shapes alone, without gradients.

    A copy of the model that holds no data stands in for it where the forward is content with
    that: several times as fast as `run_without_data`, which takes over where it is not.

    Args:
        model: The model.
        run: (the model or its copy, images) -> the forward pass.
        input_shape: (C, H, W) of its input.
    """
    with suppress(*MISFITS), torch.no_grad():
        run(_without_data(model), torch.empty(_BATCH, *input_shape, device="meta"))
        return
    run_without_data(lambda images: run(model, images), input_shape)


def run_without_data(run: Callable[[Tensor], object], input_shape: Shape) -> None:
    """Runs a forward pass on a batch of 2 for its shapes alone, without gradients.

    Its tensors hold no data and cost no time, unless the forward looks at values.

    Args:
        run: The forward pass.
        input_shape: (C, H, W) of its input.
    """
    with torch.no_grad():
        try:
            with _without_error_log(), FakeTensorMode(allow_non_fake_inputs=True):
                run(torch.empty(_BATCH, *input_shape))
        except _NEEDS_DATA:
            run(torch.rand(_BATCH, *input_shape, generator=torch.Generator().manual_seed(0)))


def _without_data(model: nn.Module) -> nn.Module:
    tensors = {id(t): torch.empty_like(t, device="meta") for t in model.buffers()}
    for parameter in model.parameters():
        tensors[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    return copy.deepcopy(model, tensors)


def describe(err: BaseException) -> str:
    """Returns what an error of a forward pass says, or its type where it says nothing itself."""
    reason = reason_of(err)
    # torch.fx appends where it was; of an error without text nothing else is left.
    return type(err).__name__ if reason.startswith("While executing") else reason


@contextmanager
def _without_error_log() -> Iterator[None]:
    """Keeps torch from logging what is raised as well, and expected here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


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


@contextmanager
def _without_new_attributes(model: nn.Module) -> Iterator[None]:
    """Removes the tensor constants that torch.fx hangs on the model that it traces."""
    before = set(model.__dict__)
    try:
        yield
    finally:
        for name in set(model.__dict__) - before:
            delattr(model, name)


def _trace(model: nn.Module) -> tuple[fx.Graph, set[str]]:
    opaque: set[str] = set()
    while True:
        try:
            return _Tracer(opaque).trace(model), opaque
        except _UntraceableError as err:
            opaque.add(err.path)
        except Exception as err:
            # As above, but there is no module around it to leave opaque.
            raise DmcpError(
                f"torch.fx cannot trace the forward of {type(model).__name__}"
                f" ({describe(err)}): move its data-dependent part into a submodule."
            ) from err


def _annotate(graph: fx.Graph, model: nn.Module, input_shape: Shape) -> None:
    try:
        try_out(model, lambda own, images: _Recorder(own, graph).record(images), input_shape)
    except MISFITS as err:
        size = "x".join(str(n) for n in input_shape)
        raise DmcpError(
            f"The network does not run on a {size} input ({describe(err)}):"
            " choose another --input-size."
        ) from err


class _Recorder(fx.Interpreter):
    _COUNTED = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)

    def record(self, images: Tensor) -> None:
        with _without_fused_attention(), FlopCounterMode(display=False) as self._counter:
            self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        before = self._flops()
        value = super().run_node(n)
        n.meta["shape"] = _shape(value)
        n.meta["macs"] = (self._flops() - before) // (2 * _BATCH)
        return value

    def _flops(self) -> int:
        counts = self._counter.flop_counts["Global"]
        return sum(counts.get(op, 0) for op in self._COUNTED)


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Makes attention call its linear layers one by one: fused, they cannot be counted."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _shape(value: object) -> Any:
    if isinstance(value, Tensor):
        return tuple(int(n) for n in value.shape)
    if isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value):
        return tuple(_shape(item) for item in value)
    return None
