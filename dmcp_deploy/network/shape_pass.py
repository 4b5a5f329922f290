"""Forward passes that are run for the shapes of their results alone."""

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

from dmcp_deploy.network.layer_rules import BATCH, Shape
from dmcp_deploy.network.layers import is_hooked, is_stock, narrowed, output_shape
from dmcp_deploy.network.operations import result_shape

#: Path -> the module, parameter or constant of a traced model that lies there.
Fetch = Callable[[str], Any]

#: What a forward pass may raise that does not fit its input, or its narrowed layers.
MISFITS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)

#: What a pass without data raises where the forward looks at values.
NEEDS_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


class ShapePass:
    """Runs forward passes over the parts of one model for their shapes alone, on a batch of 2.

    Copies that hold no data stand in for the parts where the forward is content with that: many
    times as fast as `run_without_data`, which takes over where it is not.
    """

    def __init__(self, fetch: Fetch, input_shape: Shape) -> None:
        """Prepares for a model.

        Args:
            fetch: Returns its parts.
            input_shape: (C, H, W) of its input.
        """
        self.input_shape = input_shape
        self._fetch, self._fetch_without_data = fetch, _PartsWithoutData(fetch)

    def run(self, forward: Callable[[Fetch, Tensor], object], on_data: bool = True) -> None:
        """Runs a forward pass without gradients.

        Args:
            forward: (what returns the model's parts, or copies of them, images) -> the pass.
            on_data: Whether to take random pixels where the forward looks at values.
        """
        with suppress(*MISFITS), torch.no_grad():
            images = torch.empty(BATCH, *self.input_shape, device="meta")
            forward(self._fetch_without_data, images)
            return
        run_without_data(lambda images: forward(self._fetch, images), self.input_shape, on_data)


def call_for_shape(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns what a module or function returns, or a tensor of that shape without data.

    The tables know the shapes of most results. torch would derive them by decompositions in
    Python, which take 0.3 to 2 ms for a batch norm or an activation.
    """
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and x.is_meta and x.is_floating_point()):
        return target(*args, **kwargs)
    shape = _known_shape(target, x, (*args[1:], *kwargs.values()))
    if shape is None:
        return target(*args, **kwargs)
    # Where the shape stays, so do the strides.
    return x.detach() if shape == x.shape else x.new_empty(shape)


def node_value(
    node: fx.Node,
    args: Any,
    kwargs: Any,
    fetch: Fetch,
    call: Callable[..., Any] = call_for_shape,
) -> Any:
    """Returns the value of a node, or a tensor of its shape without data.

    Args:
        node: A node other than the input and the output.
        args: The values of its arguments.
        kwargs: The values of its keyword arguments.
        fetch: Returns the model's parts.
        call: (module or function, its arguments) -> the value.
    """
    target: Any = node.target
    if node.op == "get_attr":
        return fetch(target)
    if node.op == "call_method":
        target, args = getattr(args[0], target), args[1:]
    elif node.op == "call_module":
        target = fetch(target)
    return call(target, *args, **kwargs)


def run_without_data(
    run: Callable[[Tensor], object], input_shape: Shape, on_data: bool = True
) -> None:
    """Runs a forward pass on a batch of 2 for its shapes alone, without gradients.

    Its tensors hold no data and cost no time, unless the forward looks at values.

    Args:
        run: The forward pass.
        input_shape: (C, H, W) of its input.
        on_data: Whether it then runs on random pixels; False raises one of NEEDS_DATA.
    """
    with torch.no_grad():
        try:
            with _without_error_log(), FakeTensorMode(allow_non_fake_inputs=True):
                run(torch.empty(BATCH, *input_shape))
        except NEEDS_DATA:
            if not on_data:
                raise
            run(torch.rand(BATCH, *input_shape, generator=torch.Generator().manual_seed(0)))


class _PartsWithoutData:
    """Copies of a model's parts whose tensors hold no data, each made when it is asked for."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._copies: dict[str, Any] = {}
        self._memo: dict[int, Any] = {}

    def __call__(self, target: str) -> Any:
        if target not in self._copies:
            self._copies[target] = self._copy(self._fetch(target))
        return self._copies[target]

    def _copy(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.detach().to("meta")
        if isinstance(part, nn.Module) and is_stock(part):
            # A shallow copy will do, in a twentieth of the time.
            tensors = {**part._parameters, **part._buffers}
            empty = {name: t.detach().to("meta") for name, t in tensors.items() if t is not None}
            return narrowed(part, empty, None)
        if isinstance(part, nn.Module):
            self._memo.update((id(t), t.detach().to("meta")) for t in part.buffers())
            for parameter in part.parameters():
                self._memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
            # Weights that hooks compute are plain attributes.
            others = (value for module in part.modules() for value in module.__dict__.values())
            self._memo.update(
                (id(t), t.detach().to("meta")) for t in others if isinstance(t, Tensor)
            )
        return copy.deepcopy(part, self._memo)


def _known_shape(target: Callable[..., Any], x: Tensor, others: tuple[Any, ...]) -> Shape | None:
    """Returns the shape of a result, or None where the tables do not tell."""
    if isinstance(target, nn.Module):
        return None if others or is_hooked(target) else output_shape(target, x)
    return result_shape(target, x, others)


@contextmanager
def _without_error_log() -> Iterator[None]:
    """Keeps torch from logging what is raised as well, and expected here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
