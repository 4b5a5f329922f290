"""Functions that torch.fx cannot look into by itself: scripted ones, and those of autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import Function


@contextmanager
def traced_through() -> Iterator[None]:
    """Lets a trace, within the context, go through the Python code of such functions.

    A function of autograd is one operation of the graph instead where its backward pass is
    another than the derivative of its forward pass, which is all that a graph would keep.
    """
    scripted: Any = torch.jit.ScriptFunction
    call, apply = scripted.__call__, Function.__dict__["apply"]

    def call_python(function: Any, *args: Any, **kwargs: Any) -> Any:
        if _proxies((*args, *kwargs.values())):
            return function._torchdynamo_inline(*args, **kwargs)
        return call(function, *args, **kwargs)

    def apply_or_note(cls: type[Function], *args: Any) -> Any:
        proxies = _proxies(args)
        if not proxies or _derives_itself(cls, args):
            return apply.__get__(None, cls)(*args)
        return proxies[0].tracer.create_proxy("call_function", _applied(cls), args, {})

    scripted.__call__ = call_python
    Function.apply = classmethod(apply_or_note)
    try:
        yield
    finally:
        scripted.__call__ = call
        Function.apply = apply


def _proxies(args: Sequence[Any]) -> list[Any]:
    return [arg for arg in args if isinstance(arg, fx.Proxy)]


def _applied(cls: type[Function]) -> Callable[..., Any]:
    def applied(*args: Any) -> Any:
        return cls.apply(*args)

    applied.__name__ = applied.__qualname__ = cls.__name__
    return applied


def _derives_itself(cls: type[Function], args: Sequence[Any]) -> bool:
    """Returns whether a function's gradients at random values are those of its forward pass."""
    draw = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad():
            values = [_random(arg, draw) for arg in args]
            inputs = [value for value in values if _is_differentiable(value)]
            ours = cls.apply(*values)
            shares = torch.randn(ours.shape, generator=draw)
            gradients = [
                torch.autograd.grad(result, inputs, shares, materialize_grads=True)
                for result in (ours, _forward(cls, values))
            ]
    except Exception:
        # Foreign code may raise anything on values that it was not made for.
        return False
    return all(torch.allclose(a, b, 1e-3, 1e-5) for a, b in zip(*gradients, strict=True))


def _random(arg: Any, draw: torch.Generator) -> Any:
    """Returns random values in place of what a proxy stands for."""
    if not isinstance(arg, fx.Proxy):
        return arg
    tracer: Any = arg.tracer
    value = tracer.known(arg, _shape_or_value)
    if isinstance(value, torch.Size):
        return torch.randn(value, generator=draw, requires_grad=True)
    return value


def _shape_or_value(value: Any) -> Any:
    # Of the batch, whose size is asked for two times, one image will do.
    return torch.Size((1, *value.shape[1:])) if isinstance(value, Tensor) else value


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _forward(cls: Any, values: Sequence[Any]) -> Any:
    if cls.setup_context is not Function.setup_context:
        return cls.forward(*values)
    return cls.forward(_Context(), *values)


class _Context:
    """Stands in for autograd's context, in a forward pass that is not to be remembered."""

    needs_input_grad = ()

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def save_for_forward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...
