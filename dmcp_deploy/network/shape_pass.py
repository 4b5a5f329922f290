"""Forward passes that are run for the shapes of their results alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from dmcp_deploy.network.layers import is_stock, keeps_shape, narrowed
from dmcp_deploy.network.operations import ELEMENTWISE

Shape = tuple[int, ...]

#: What a forward pass may raise that does not fit its input, or its narrowed layers.
MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)

#: Images of a pass.
BATCH = 2

_NEEDS_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


class ShapePass:
    """Runs forward passes of one model for their shapes alone, on a batch of 2.

    A copy of the model that holds no data stands in for it where the forward is content with
    that: many times as fast as `run_without_data`, which takes over where it is not.
    """

    def __init__(self, model: nn.Module, input_shape: Shape) -> None:
        """Prepares for a model.

        Args:
            model: The model.
            input_shape: (C, H, W) of its input.
        """
        self._model, self.input_shape = model, input_shape

    def run(self, forward: Callable[[nn.Module, Tensor], object]) -> None:
        """Runs a forward pass without gradients.

        Args:
            forward: (the model or its copy, images) -> the forward pass.
        """
        with suppress(*MISFITS), torch.no_grad():
            images = torch.empty(BATCH, *self.input_shape, device="meta")
            forward(self._without_data, images)
            return
        run_without_data(lambda images: forward(self._model, images), self.input_shape)

    @cached_property
    def _without_data(self) -> nn.Module:
        memo: dict[int, Any] = {id(t): t.detach().to("meta") for t in self._model.buffers()}
        for parameter in self._model.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
        for module in self._model.modules():
            if is_stock(module):  # a shallow copy will do, at a fraction of the time
                tensors = {**module._parameters, **module._buffers}
                parts = {name: memo[id(t)] for name, t in tensors.items() if t is not None}
                memo[id(module)] = narrowed(module, parts, None)
        return copy.deepcopy(self._model, memo)


def call_for_shape(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns what a module or function returns, or a tensor of that shape without data.

    The tables know what keeps the shape of its input. torch would derive the shape by a
    decomposition in Python, which takes 0.3 to 2 ms for a batch norm or an activation.
    """
    x = args[0] if args else None
    others = (*args[1:], *kwargs.values())
    if isinstance(x, Tensor) and x.is_meta and _returns_like(target, x, others):
        return x.detach()
    return target(*args, **kwargs)


def _returns_like(target: Callable[..., Any], x: Tensor, others: tuple[Any, ...]) -> bool:
    if not x.is_floating_point():
        return False
    if isinstance(target, nn.Module):
        hooked = target._forward_hooks or target._forward_pre_hooks
        return not others and not hooked and keeps_shape(target, x.shape)
    alike = (o.shape == x.shape and o.dtype == x.dtype for o in others if isinstance(o, Tensor))
    return target in ELEMENTWISE and all(alike)


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
                run(torch.empty(BATCH, *input_shape))
        except _NEEDS_DATA:
            run(torch.rand(BATCH, *input_shape, generator=torch.Generator().manual_seed(0)))


def describe(err: BaseException) -> str:
    """Returns the first line of an error, or its type where it says nothing of its own."""
    text = str(err).strip()
    # torch.fx appends where it was; of an error without text nothing else is left.
    if not text or text.startswith("While executing"):
        return type(err).__name__
    return text.splitlines()[0][:160].rstrip()


@contextmanager
def _without_error_log() -> Iterator[None]:
    """Keeps torch from logging what is raised as well, and expected here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
