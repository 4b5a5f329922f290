"""Multiply-adds of products with stored factors, whatever operation writes them.

A product counts where just one of its factors follows from the network's input: the other is
stored, or computed from what is stored, so this is a layer. A product of two activations is
none, as in attention, and one of two constants is known before the first image. Convolutions
count with computed filters too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products, without biases, as long as it is entered; may be entered again.

    Attributes:
        macs: Multiply-adds so far, all images of the batch together.
    """

    def __init__(self, images: Tensor) -> None:
        """Prepares for a network.

        Args:
            images: Its input: what follows from it is an activation.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        # Views share their tensor's storage; the references keep its address from being reused.
        self._activations: dict[int, StorageWeakRef] = {}
        self.noted(images)

    def is_from_input(self, value: Any) -> bool:
        """Returns whether a tensor, or one within a value, follows from the network's input."""
        return any(t.untyped_storage()._cdata in self._activations for t in _tensors(value))

    def noted(self, value: Any) -> Any:
        """Returns a value whose tensors are known to follow from the network's input."""
        for tensor in _tensors(value):
            reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            self._activations[reference.cdata] = reference
        return value

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        count = _COUNTED.get(getattr(func, "overloadpacket", None))
        if count is None and torch.is_inference_mode_enabled():
            # Only there do composite operations, such as `linear`, come here in one piece.
            with self:
                value = func.decompose(*args, **kwargs)
            if value is not NotImplemented:
                return value
        value = func(*args, **kwargs)
        if count is not None:
            self.macs += count(self.is_from_input, value, *args)
        follows = self.is_from_input((args, kwargs)) and not reads_shape_alone(func)
        return self.noted(value) if follows else value


def reads_shape_alone(function: Any) -> bool:
    """Returns whether a function makes a tensor of another's shape without looking into it."""
    name = str(getattr(function, "__name__", function)).partition(".")[0]
    return name.startswith("new_") or name.endswith("_like")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


#: Tells activations from constants.
_IsActivation = Callable[[Tensor], bool]


def _convolution(
    is_activation: _IsActivation, y: Tensor, x: Tensor, weight: Tensor, *rest: Any
) -> int:
    if not (is_activation(x) or is_activation(weight)):
        return 0
    transposed = rest[4]
    positions = (x if transposed else y).shape[2:].numel()
    return x.shape[0] * positions * weight.numel()


def _product(is_activation: _IsActivation, y: Tensor, left: Tensor, right: Tensor) -> int:
    """Counts matrices or vectors, or batches of them; each element of the output is one sum."""
    if is_activation(left) == is_activation(right):
        return 0
    return y.numel() * left.shape[-1]


def _added_product(
    is_activation: _IsActivation, y: Tensor, _added: Tensor, left: Tensor, right: Tensor
) -> int:
    return _product(is_activation, y, left, right)


def _bilinear(
    is_activation: _IsActivation, y: Tensor, x: Tensor, weight: Tensor, z: Tensor, *_: Any
) -> int:
    """Counts x W, which is then multiplied by z: [N, O, I] * [O, I, K] * [N, O, K] unsqueezed."""
    outputs, _inputs, others = weight.shape[-3:]
    rows = y.numel() // outputs
    first = is_activation(x) != is_activation(weight)
    second = (is_activation(x) or is_activation(weight)) != is_activation(z)
    return first * rows * weight.numel() + second * rows * outputs * others


def _recurrent(is_activation: _IsActivation, y: Any, x: Tensor, *rest: Any) -> int:
    """Counts one direction of an LSTM over x [T, N, C], as the CPU's library computes it."""
    (inputs, state), before = rest[:2], rest[4]
    steps, sequences = x.shape[:2]
    if not is_activation(x):
        return 0
    later = steps if is_activation(before) else steps - 1
    return int(sequences * (steps * inputs.numel() + later * state.numel()))


_ATEN = torch.ops.aten
_COUNTED: Mapping[Any, Callable[..., int]] = {
    _ATEN.convolution: _convolution,
    **dict.fromkeys((_ATEN.mm, _ATEN.bmm, _ATEN.mv, _ATEN.dot, _ATEN.vdot), _product),
    **dict.fromkeys((_ATEN.addmm, _ATEN.baddbmm, _ATEN.addmv), _added_product),
    _ATEN._trilinear: _bilinear,
    _ATEN.mkldnn_rnn_layer: _recurrent,
}
