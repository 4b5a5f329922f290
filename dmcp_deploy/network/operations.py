"""The operation table: function or tensor method -> what it does to the channels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from dmcp_deploy.network.call import Call, Value, fits, operation_name
from dmcp_deploy.network.channels import Channels
from dmcp_deploy.network.combining import (
    attention_rule,
    binary_rule,
    cat_rule,
    elementwise_rule,
    expand_as_rule,
    linear_rule,
    matmul_rule,
    norm_rule,
    stack_rule,
)
from dmcp_deploy.network.einsum import einsum_rule
from dmcp_deploy.network.moving import (
    chunk_rule,
    expand_rule,
    flatten_rule,
    flip_rule,
    getitem_rule,
    movedim_rule,
    pad_rule,
    permute_rule,
    reshape_rule,
    roll_rule,
    setitem_rule,
    shuffle_rule,
    split_rule,
    squeeze_rule,
    transpose_rule,
    unbind_rule,
    unshuffle_rule,
    unsqueeze_rule,
)
from dmcp_deploy.network.reshape import Shape, permute_channels, with_axis, without_axis


def propagate(call: Call) -> Value:
    """Returns the channels of an operation's result.

    An operation that the table does not know pins whatever it reads.
    """
    node = call.node
    shape = node.meta["shape"]
    if shape is None:
        return setitem_rule(call) if node.target is operator.setitem else None
    rule = _TABLE.get(node.target)
    if rule is None:
        call.pin_all(f"{operation_name(node)} is not in the layer table")
        return None
    result = rule(call)
    if fits(result, shape):
        return result
    call.pin_all(f"{operation_name(node)} is used in a way that the layer table does not know")
    return None


def result_shape(function: object, x: Tensor, others: Sequence[Any]) -> Shape | None:
    """Returns the shape of a function's result, or None where it has to be run to tell.

    Args:
        function: The function.
        x: Its first operand.
        others: Its other arguments.
    """
    if function is F.adaptive_avg_pool2d and x.ndim == 4:
        return _pooled_shape(x.shape, *others)
    tensors = [other for other in others if isinstance(other, Tensor)]
    alike = all(t.shape == x.shape and t.dtype == x.dtype for t in tensors)
    return x.shape if alike and function in _ELEMENTWISE else None


def _pooled_shape(shape: Shape, size: Any) -> Shape | None:
    height, width = (size, size) if isinstance(size, int) else size
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    return (*shape[:2], height, width)


def _same(call: Call) -> Value:
    tracked = [n for n in call.node.all_input_nodes if call.channels(n) is not None]
    if len(tracked) > 1:
        call.pin_all(f"{operation_name(call.node)} reads several tensors")
    return call.channels(call.operand)


def _reshaped_once(rule: Callable[[Call], Value], call: Call) -> Value:
    """A tensor that gets another shape in place, where nothing else reads it."""
    if len(call.operand.users) > 1:
        call.pin_all("its shape is changed in place, and it is read again")
        return None
    return rule(call)


def _untied(call: Call) -> Value:
    return None


def _spatial(call: Call) -> Value:
    value = call.channels(call.operand)
    if isinstance(value, Channels) and value.axes[-1] > 1:
        call.ids.pin(value, "a spatial operation runs over the channels")
        return None
    return value


def _cast(call: Call) -> Value:
    return call.channels(call.operand)


def _attribute(call: Call) -> Value:
    """An attribute of a tensor, or one of several results by its name."""
    value = call.channels(call.operand)
    name = call.argument(1, "name")
    if isinstance(value, list):
        return value[0] if name == "values" else None
    if name == "data" or value is None:
        return value
    if name == "mT":
        ndim = len(call.shape(call.operand))
        return permute_channels(value, [*range(ndim - 2), ndim - 1, ndim - 2])
    call.ids.pin(value, f"its {name} is not in the layer table")
    return None


def _softmax(call: Call) -> Value:
    """Looks at all channels where it runs over them, as a layer norm does."""
    value = call.channels(call.operand)
    if isinstance(value, Channels) and value.ids.ndim > 1:
        axis = call.axis(default=-1)
        if axis in value.axes:
            call.ids.tie_along(value.ids, value.axes.index(axis))
            return call.ids.compact(value)
    return value


def _reduce(call: Call, place: int = 1) -> Value:
    """A reduction: over all channels it is one number of however many are there."""
    value, axes = call.channels(call.operand), call.axes(place)
    if not isinstance(value, Channels):
        return None
    result: Channels | None = call.ids.compact(value)
    keeps = _leading_ndim(call.node.meta["shape"]) == len(call.shape(call.operand))
    for axis in sorted(axes, reverse=True):
        if result is not None:
            result = without_axis(call.ids, result, axis)
            result = with_axis(result, axis) if keeps and result is not None else result
    return result


def _leading_ndim(shape: Any) -> int:
    return len(shape[0]) if shape and isinstance(shape[0], tuple) else len(shape)


def _extremum(call: Call) -> Value:
    """A largest or smallest element, along an axis with its place; or of two tensors."""
    if isinstance(call.argument(1, "other"), fx.Node):
        return binary_rule(call)
    value = _reduce(call)
    return [value, None] if isinstance(call.node.meta["shape"][0], tuple) else value


_SAME = (
    *(F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.sigmoid, F.tanh),
    *(F.leaky_relu, F.elu, F.selu, F.celu, F.mish, F.softplus, F.dropout, F.dropout2d, F.normalize),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.clone, torch.clamp, torch.abs, torch.sqrt),
    *(torch.exp, operator.neg, torch.neg, torch.square, torch.rsqrt, torch.log),
    *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous", "clone", "detach", "clamp"),
    *("clamp_", "abs", "neg", "exp", "hardtanh_", "sqrt", "square", "rsqrt", "log"),
    *(F.softsign, F.tanhshrink, F.hardshrink, F.softshrink, F.threshold, F.rrelu, F.logsigmoid),
    *(F.relu_, F.leaky_relu_, F.elu_, F.hardtanh_, F.dropout1d, F.dropout3d, F.alpha_dropout),
    *(torch.sign, torch.erf, torch.sin, torch.cos, torch.floor, torch.round, torch.reciprocal),
    *("sign", "erf", "sin", "cos", "floor", "round", "reciprocal", "exp_", "abs_", "neg_"),
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like),
)
#: Tensors of given sizes, of another's type and on its device.
_NEW = ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor")
_COMPARISONS = (
    *(operator.gt, operator.ge, operator.lt, operator.le, operator.eq, operator.ne),
    *(torch.gt, torch.ge, torch.lt, torch.le, torch.eq, torch.ne),
    *("gt", "ge", "lt", "le", "eq", "ne"),
)
_BY_ELEMENTS = (
    *(torch.addcmul, torch.where, torch.masked_fill),
    *("addcmul", "where", "masked_fill", "masked_fill_"),
)
_SOFTMAX = (F.softmax, torch.softmax, "softmax", F.log_softmax, torch.log_softmax)
_SPATIAL = (
    *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, F.interpolate),
)
_CASTS = ("float", "double", "half", "bfloat16", "to", "type", "type_as")
_BINARY = (
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul),
    *(operator.truediv, operator.pow, torch.add, torch.sub, torch.mul, torch.multiply, torch.div),
    *(torch.pow, torch.maximum, torch.minimum),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow", "maximum", "minimum"),
)
_REDUCTIONS = (
    *(torch.mean, "mean", torch.sum, "sum", torch.amax, "amax", torch.amin, "amin"),
    *(torch.std, "std", torch.var, "var", torch.logsumexp, "logsumexp"),
)
_MATRIX_PRODUCTS = (
    *(torch.matmul, operator.matmul, torch.bmm, torch.mm),
    *("matmul", "bmm", "mm"),
)
#: Functions that keep their first operand's shape where all other tensors have it too.
_ELEMENTWISE = frozenset(operation for operation in (*_SAME, *_BINARY) if callable(operation))
_TABLE: dict[Any, Callable[[Call], Value]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_SOFTMAX, _softmax),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_CASTS, _cast),
    **dict.fromkeys(_BINARY, binary_rule),
    **dict.fromkeys(_COMPARISONS, binary_rule),
    **dict.fromkeys(_BY_ELEMENTS, elementwise_rule),
    **dict.fromkeys(_NEW, _untied),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), cat_rule),
    torch.stack: stack_rule,
    **dict.fromkeys((torch.flatten, "flatten", "view_as", "reshape_as"), flatten_rule),
    **dict.fromkeys((torch.reshape, "reshape", "view"), reshape_rule),
    **dict.fromkeys((torch.permute, "permute"), permute_rule),
    **dict.fromkeys((torch.transpose, "transpose", torch.swapaxes, "swapaxes"), transpose_rule),
    **dict.fromkeys((torch.movedim, "movedim"), movedim_rule),
    **dict.fromkeys((torch.chunk, "chunk"), chunk_rule),
    **dict.fromkeys((torch.split, "split"), split_rule),
    **dict.fromkeys((torch.unbind, "unbind"), unbind_rule),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys((torch.norm, "norm"), partial(_reduce, place=2)),
    **dict.fromkeys((torch.max, torch.min, "max", "min"), _extremum),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), unsqueeze_rule),
    **dict.fromkeys((torch.squeeze, "squeeze"), squeeze_rule),
    "unsqueeze_": partial(_reshaped_once, unsqueeze_rule),
    "squeeze_": partial(_reshaped_once, squeeze_rule),
    **dict.fromkeys(_MATRIX_PRODUCTS, matmul_rule),
    torch.einsum: einsum_rule,
    F.linear: linear_rule,
    F.layer_norm: norm_rule,
    F.scaled_dot_product_attention: attention_rule,
    "expand": expand_rule,
    "expand_as": expand_as_rule,
    **dict.fromkeys((torch.roll, "roll"), roll_rule),
    **dict.fromkeys((torch.flip, "flip"), flip_rule),
    F.pad: pad_rule,
    F.pixel_shuffle: shuffle_rule,
    F.pixel_unshuffle: unshuffle_rule,
    operator.getitem: getitem_rule,
    getattr: _attribute,
}
