"""The layer table: module type -> how it couples channels, what it costs, how it narrows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dmcp_deploy.network.channels import ChannelIds, Channels
from dmcp_deploy.network.layer_rules import (
    Coupling,
    Shape,
    batch_norm_shape,
    conv_shape,
    couple_batch_norm,
    couple_blur,
    couple_conv,
    couple_flatten,
    couple_frozen_norm,
    couple_group_norm,
    couple_layer_norm,
    couple_linear,
    couple_passing,
    couple_prelu,
    couple_spatial,
    couple_transposed,
    keep_size,
    layer_norm_shape,
    linear_shape,
    passing_shape,
    resize_batch_norm,
    resize_blur,
    resize_conv,
    resize_group_norm,
    resize_layer_norm,
    resize_linear,
    resize_prelu,
    resize_transposed,
    unknown_shape,
)

#: The kinds of layers that multiply by weights.
WEIGHTED = ("conv", "transposed", "linear")

Couple = Callable[[Any, ChannelIds, Channels | None, Shape, Shape], Coupling]
Resize = Callable[[Any, Mapping[str, Tensor], int | None], dict[str, object]]
OutputShape = Callable[[Any, Shape], Shape | None]


@dataclass(frozen=True)
class LayerRule:
    """One row of the table.

    Attributes:
        kind: What the layer is called in listings.
        couple: (module, ids, channels of its input, input shape, output shape) -> Coupling.
        resize: (module, its narrowed tensors, input width) -> attributes that follow.
        tensors: Parameters and buffers that the rule knows; a subclass with more of them, or
            one whose parameters are computed, is not taken for this type.
        output_shape: (module of just this type, input shape) -> shape of its output; None where
            it does not take such an input, or has to be run to tell.
        scaling: The parameter that the outputs of a layer that multiplies by weights grow with.
    """

    kind: str
    couple: Couple
    resize: Resize
    tensors: frozenset[str]
    output_shape: OutputShape = unknown_shape
    scaling: str = "weight"


def rule_for(module: nn.Module) -> LayerRule | None:
    """Returns the table's row for a module, or None for one it does not know."""
    rule = _stock_rule(module)
    if rule is not None or type(module) in _TABLE or _qualified_name(module) in _BY_NAME:
        return rule
    for base in type(module).__mro__:
        if base in _TABLE:
            known = _holds_only(module, _TABLE[base].tensors) and not is_parametrized(module)
            return _TABLE[base] if known else None
    return None


def is_stock(module: nn.Module) -> bool:
    """Returns whether a module is of just one of the table's types, not of a subclass."""
    return _stock_rule(module) is not None


def output_shape(module: nn.Module, x: Tensor) -> Shape | None:
    """Returns the shape of a module's output, or None where the table does not tell it."""
    rule = _stock_rule(module)
    weight = module._parameters.get("weight")
    if rule is None or (weight is not None and weight.dtype != x.dtype):
        return None
    return rule.output_shape(module, x.shape)


def _stock_rule(module: nn.Module) -> LayerRule | None:
    rule = _TABLE.get(type(module))
    if rule is None:
        rule = _BY_NAME.get(_qualified_name(module))
    return rule if rule is not None and _holds_only(module, rule.tensors) else None


def _holds_only(module: nn.Module, tensors: frozenset[str]) -> bool:
    return tensors.issuperset(module._parameters) and tensors.issuperset(module._buffers)


def is_layer(module: nn.Module) -> bool:
    """Returns whether the table knows a module, so that it is traced as one node."""
    return rule_for(module) is not None


def is_hooked(module: nn.Module) -> bool:
    """Returns whether a module does more, before or behind it, than its type says."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


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
    if type(module) not in _TABLE:
        # What it computes of its weights may be added up in the order that they lie in.
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for store in ("_parameters", "_buffers"):
        full = module.__dict__[store]
        copy.__dict__[store] = {name: tensors.get(name, full[name]) for name in full}
    rule = rule_for(module)
    assert rule is not None
    copy.__dict__.update(rule.resize(module, tensors, inputs))
    return copy


def _qualified_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


_AFFINE = frozenset({"weight", "bias"})
_RUNNING = _AFFINE | {"running_mean", "running_var", "num_batches_tracked"}
_CONV_RULE = LayerRule("conv", couple_conv, resize_conv, _AFFINE, conv_shape)
_TRANSPOSED_RULE = LayerRule("transposed", couple_transposed, resize_transposed, _AFFINE)
#: Standardises each of its filters before it convolves, and scales it by a gain of its own.
_SCALED_CONV_RULE = LayerRule("conv", couple_conv, resize_conv, _AFFINE | {"gain"}, scaling="gain")
_INSTANCE_NORM_RULE = LayerRule("norm", couple_batch_norm, resize_batch_norm, _RUNNING)
_BATCH_NORM_RULE = replace(_INSTANCE_NORM_RULE, output_shape=batch_norm_shape)
_LAYER_NORM_RULE = LayerRule(
    "norm", couple_layer_norm, resize_layer_norm, _AFFINE, layer_norm_shape
)
_PASSING = LayerRule("pass", couple_passing, keep_size, frozenset(), passing_shape)
_SPATIAL = LayerRule("pass", couple_spatial, keep_size, frozenset())

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
    nn.Softsign,
    nn.Tanhshrink,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
    nn.RReLU,
)
_SPATIALS: tuple[type[nn.Module], ...] = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    nn.LPPool2d,
    nn.Upsample,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.ConstantPad2d,
)
_OTHERS: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    nn.FeatureAlphaDropout,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

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

_BLUR = LayerRule("pass", couple_blur, resize_blur, frozenset({"filt"}))

#: Scales and shifts by numbers that stay, so it does not cancel the scale of its input.
_FROZEN_NORM = LayerRule(
    "activation", couple_frozen_norm, keep_size, _RUNNING - {"num_batches_tracked"}
)

_BY_NAME: dict[str, LayerRule] = {
    **dict.fromkeys(_PASSING_NAMES, _PASSING),
    "timm.layers.blur_pool.BlurPool2d": _BLUR,
    "timm.layers.norm_act.BatchNormAct2d": _BATCH_NORM_RULE,
    "timm.layers.norm.LayerNorm": _LAYER_NORM_RULE,
    "timm.layers.norm.LayerNorm2d": replace(_LAYER_NORM_RULE, output_shape=passing_shape),
    "torchvision.ops.misc.FrozenBatchNorm2d": _FROZEN_NORM,
    "timm.layers.std_conv.ScaledStdConv2d": _SCALED_CONV_RULE,
    "timm.layers.std_conv.ScaledStdConv2dSame": _SCALED_CONV_RULE,
}

_TABLE: dict[type[nn.Module], LayerRule] = {
    nn.Conv1d: _CONV_RULE,
    nn.Conv2d: _CONV_RULE,
    nn.Conv3d: _CONV_RULE,
    **dict.fromkeys(_TRANSPOSED, _TRANSPOSED_RULE),
    nn.Linear: LayerRule("linear", couple_linear, resize_linear, _AFFINE, linear_shape),
    **dict.fromkeys(_BATCH_NORMS, _BATCH_NORM_RULE),
    **dict.fromkeys(_INSTANCE_NORMS, _INSTANCE_NORM_RULE),
    nn.LayerNorm: _LAYER_NORM_RULE,
    nn.GroupNorm: LayerRule("norm", couple_group_norm, resize_group_norm, _AFFINE),
    nn.PReLU: LayerRule("activation", couple_prelu, resize_prelu, frozenset({"weight"})),
    nn.Flatten: LayerRule("pass", couple_flatten, keep_size, frozenset()),
    **dict.fromkeys(_SPATIALS, _SPATIAL),
    **dict.fromkeys((*_ACTIVATIONS, *_OTHERS), _PASSING),
}
