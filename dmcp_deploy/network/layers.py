"""The layer table: module type -> how it couples channels, what it costs, how it narrows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from dmcp_deploy.network.channels import ChannelIds, Channels, Ids
from dmcp_deploy.network.reshape import flatten_channels

Cuts = dict[str, tuple[tuple[int, Ids], ...]]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Coupling:
    """What a layer says of its channels.

    Attributes:
        result: The channels of its output; None where nothing is known of them.
        cuts: Tensor name -> (dimension, identities along it) for every dimension that narrows.
        inputs: Identities of its input channels; None if untracked.
        outputs: Identities of the channels it produces; None for a layer that only passes on.
        macs_per_pair: Multiply-adds for one image per (input, output) channel pair; for a
            grouped layer per output channel; 0 for layers that do not count.
        grouped: Whether the cost grows with the outputs alone.
    """

    result: Channels | None
    cuts: Cuts = field(default_factory=dict)
    inputs: Ids | None = None
    outputs: Ids | None = None
    macs_per_pair: int = 0
    grouped: bool = False


Couple = Callable[[Any, ChannelIds, Channels | None, Shape, Shape], Coupling]
Resize = Callable[[Any, Mapping[str, Tensor], int | None], dict[str, object]]


@dataclass(frozen=True)
class LayerRule:
    """One row of the table.

    Attributes:
        kind: What the layer is called in listings.
        couple: (module, ids, channels of its input, input shape, output shape) -> Coupling.
        resize: (module, its narrowed tensors, input width) -> attributes that follow.
        tensors: Parameters and buffers that the rule knows; a subclass with more of them is
            not taken for this type.
    """

    kind: str
    couple: Couple
    resize: Resize
    tensors: frozenset[str]


def rule_for(module: nn.Module) -> LayerRule | None:
    """Returns the table's row for a module, or None for one it does not know."""
    for base in type(module).__mro__:
        if base in _TABLE:
            rule = _TABLE[base]
            own = {*module._parameters, *module._buffers}
            return rule if own <= rule.tensors else None
    return _PASSING if _qualified_name(module) in _PASSING_NAMES else None


def is_layer(module: nn.Module) -> bool:
    """Returns whether the table knows a module, so that it is traced as one node."""
    return rule_for(module) is not None


def is_norm(module: nn.Module) -> bool:
    """Returns whether a module normalises, so that it cancels the scale of its input."""
    rule = rule_for(module)
    return rule is not None and rule.kind == "norm"


def is_activation(module: nn.Module) -> bool:
    """Returns whether a module is an element-wise activation."""
    return isinstance(module, _ACTIVATIONS)


def narrowed(module: nn.Module, tensors: Mapping[str, Tensor], inputs: int | None) -> nn.Module:
    """Returns a shallow copy of a layer that computes with other, smaller tensors.

    Args:
        module: A layer of the table; it stays as it is.
        tensors: Its narrowed parameters and buffers by name; the others are shared.
        inputs: Channels of the layer's input; None where its type does not ask.
    """
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for store in ("_parameters", "_buffers"):
        own = module.__dict__[store]
        copy.__dict__[store] = {name: tensors.get(name, own[name]) for name in own}
    rule = rule_for(module)
    assert rule is not None
    copy.__dict__.update(rule.resize(module, tensors, inputs))
    return copy


def _qualified_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


def _along(cuts: Mapping[str, int], module: nn.Module, ids: Ids) -> Cuts:
    """Returns the cuts of those of the named tensors that the module really has."""
    have = {**module._parameters, **module._buffers}
    return {name: ((dim, ids),) for name, dim in cuts.items() if have.get(name) is not None}


def _plain(channels: Channels | None, axis: int, size: int, ids: ChannelIds) -> Ids | None:
    """Returns the identities of an input whose channels lie whole along `axis`, or None."""
    if channels is None:
        return None
    if channels.ids.ndim == 1 and channels.axis == axis and len(channels.ids) == size:
        return channels.ids
    ids.pin(channels, "its channels do not lie along the axis that the next layer reads")
    return None


def _conv(
    module: nn.Conv2d, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    inputs = _plain(x, 1, module.in_channels, ids)
    outputs = ids.fresh(module.out_channels)
    cuts = _along({"weight": 0, "bias": 0}, module, outputs)
    kernel = module.weight[0, 0].numel()
    positions = _product(y_shape[2:]) * kernel
    result = Channels(outputs, 1)
    if module.groups > 1:
        per_group = module.in_channels // module.groups
        _tie_conv_groups(module, ids, inputs, outputs)
        return Coupling(result, cuts, inputs, outputs, positions * per_group, grouped=True)
    if inputs is not None:
        cuts["weight"] = ((0, outputs), (1, inputs))
    return Coupling(result, cuts, inputs, outputs, positions)


def _tie_conv_groups(module: nn.Conv2d, ids: ChannelIds, inputs: Ids | None, outputs: Ids) -> None:
    # A grouped convolution (a depthwise one too) loses whole convolution groups, so that those
    # left keep their shape: the channels of one are tied, on both its sides.
    rows = outputs.reshape(module.groups, -1)
    if inputs is None:
        ids.pin(Channels(outputs, 1), "a grouped convolution reads channels that are kept whole")
        return
    ids.tie_rows(np.hstack([inputs.reshape(module.groups, -1), rows]))


def _linear(
    module: nn.Linear, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    last = len(x_shape) - 1
    inputs = _plain(x, last, module.in_features, ids)
    outputs = ids.fresh(module.out_features)
    cuts = _along({"weight": 0, "bias": 0}, module, outputs)
    if inputs is not None:
        cuts["weight"] = ((0, outputs), (1, inputs))
    positions = _product(y_shape[1:-1])
    return Coupling(Channels(outputs, last), cuts, inputs, outputs, positions)


def _batch_norm(
    module: nn.BatchNorm2d, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    inputs = _plain(x, 1, module.num_features, ids)
    return _norm(module, x, inputs)


def _layer_norm(
    module: nn.LayerNorm, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    size = module.normalized_shape[0]
    along_last = type(module) is nn.LayerNorm or x is None
    axis = len(x_shape) - 1 if along_last else x.axis  # type: ignore[union-attr]
    if len(module.normalized_shape) != 1:
        ids.pin(x, "layer norm over more than the channels")
        return Coupling(None)
    return _norm(module, x, _plain(x, axis, size, ids))


def _group_norm(
    module: nn.GroupNorm, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    inputs = _plain(x, 1, module.num_channels, ids)
    if inputs is not None:
        ids.tie_rows(inputs.reshape(module.num_groups, -1))
    return _norm(module, x, inputs)


def _norm(module: nn.Module, x: Channels | None, inputs: Ids | None) -> Coupling:
    if inputs is None:
        return Coupling(None)
    names = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)
    return Coupling(x, _along(names, module, inputs), inputs=inputs)


def _prelu(
    module: nn.PReLU, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    if module.num_parameters == 1:
        return Coupling(x)
    inputs = _plain(x, 1, module.num_parameters, ids)
    return _norm(module, x, inputs)


def _pass(
    module: nn.Module, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    return Coupling(x)


def _flatten(
    module: nn.Flatten, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    return Coupling(flatten_channels(ids, x, x_shape, module.start_dim, module.end_dim))


def _resize_conv(
    module: nn.Conv2d, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    weight = tensors.get("weight", module.weight)
    outputs = weight.shape[0]
    groups = module.groups
    if groups > 1:
        groups = groups * outputs // module.out_channels
    return {"out_channels": outputs, "in_channels": weight.shape[1] * groups, "groups": groups}


def _resize_linear(
    module: nn.Linear, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    outputs, features = tensors.get("weight", module.weight).shape
    return {"out_features": outputs, "in_features": features}


def _resize_batch_norm(
    module: nn.BatchNorm2d, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    return {} if inputs is None else {"num_features": inputs}


def _resize_layer_norm(
    module: nn.LayerNorm, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    return {} if inputs is None else {"normalized_shape": (inputs,)}


def _resize_group_norm(
    module: nn.GroupNorm, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    if inputs is None:
        return {}
    groups = module.num_groups * inputs // module.num_channels
    return {"num_channels": inputs, "num_groups": groups}


def _resize_prelu(
    module: nn.PReLU, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    return {"num_parameters": tensors["weight"].shape[0]} if "weight" in tensors else {}


def _keep_size(
    module: nn.Module, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    return {}


def _product(sizes: Shape) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


_AFFINE = frozenset({"weight", "bias"})
_RUNNING = _AFFINE | {"running_mean", "running_var", "num_batches_tracked"}
_CONV_RULE = LayerRule("conv", _conv, _resize_conv, _AFFINE)
_BATCH_NORM_RULE = LayerRule("norm", _batch_norm, _resize_batch_norm, _RUNNING)
_PASSING = LayerRule("pass", _pass, _keep_size, frozenset())

_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Mish,
    nn.Softplus,
    nn.LogSigmoid,
)
_POOLS: tuple[type[nn.Module], ...] = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LPPool2d,
    nn.Upsample,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.ConstantPad2d,
)
_OTHERS: tuple[type[nn.Module], ...] = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)

#: Modules that pass channels on and live in libraries that need not be installed.
_PASSING_NAMES = frozenset(
    {
        "torchvision.ops.stochastic_depth.StochasticDepth",
        "timm.layers.drop.DropPath",
        "timm.layers.drop.DropBlock2d",
        "timm.layers.activations.Swish",
        "timm.layers.activations.HardSwish",
        "timm.layers.activations.HardSigmoid",
        "timm.layers.activations.Sigmoid",
        "timm.layers.activations.GELU",
        "timm.layers.activations.GELUTanh",
        "timm.layers.activations.Mish",
    }
)

_TABLE: dict[type[nn.Module], LayerRule] = {
    nn.Conv1d: _CONV_RULE,
    nn.Conv2d: _CONV_RULE,
    nn.Conv3d: _CONV_RULE,
    nn.Linear: LayerRule("linear", _linear, _resize_linear, _AFFINE),
    nn.BatchNorm1d: _BATCH_NORM_RULE,
    nn.BatchNorm2d: _BATCH_NORM_RULE,
    nn.BatchNorm3d: _BATCH_NORM_RULE,
    nn.LayerNorm: LayerRule("norm", _layer_norm, _resize_layer_norm, _AFFINE),
    nn.GroupNorm: LayerRule("norm", _group_norm, _resize_group_norm, _AFFINE),
    nn.PReLU: LayerRule("activation", _prelu, _resize_prelu, frozenset({"weight"})),
    nn.Flatten: LayerRule("pass", _flatten, _keep_size, frozenset()),
    **dict.fromkeys((*_ACTIVATIONS, *_POOLS, *_OTHERS), _PASSING),
}
