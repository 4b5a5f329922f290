"""What each row of the layer table does: couple a layer's channels, and resize the layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from dmcp_deploy.network.channels import ChannelIds, Channels, Ids
from dmcp_deploy.network.reshape import reshape_channels

Cuts = dict[str, tuple[tuple[int, Ids], ...]]
Shape = tuple[int, ...]

#: Images of the pass whose shapes the rules are told.
BATCH = 2


@dataclass(frozen=True)
class Coupling:
    """What a layer says of its channels.

    Attributes:
        result: The channels of its output; None where nothing is known of them.
        cuts: Tensor name -> (dimension, identities along it) for every dimension that narrows;
            first the one along which lie the filters, scales or shifts that make the channels.
        inputs: Identities of its input channels; None if untracked.
        outputs: Identities of the channels it produces; None for a layer that only passes on.
        macs_per_pair: Multiply-adds for one image per (input, output) channel pair; for a
            grouped layer per output channel; 0 for layers that do not count.
        grouped: Whether the cost grows with the outputs alone.
        pair_share: Of how many such pairs one is computed: that of a grouped layer which keeps
            its groups.
    """

    result: Channels | None
    cuts: Cuts = field(default_factory=dict)
    inputs: Ids | None = None
    outputs: Ids | None = None
    macs_per_pair: int = 0
    grouped: bool = False
    pair_share: int = 1


def couple_conv(
    module: nn.Conv2d, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a convolution.

    A grouped one loses whole convolution groups, or as many channels of each (`ids.even`).
    """
    inputs = _plain(x, 1, module.in_channels, ids)
    outputs = ids.fresh(module.out_channels)
    cuts = _along({"weight": 0, "bias": 0, "gain": 0}, module, outputs)
    positions = places(y_shape, 1) * math.prod(module.weight.shape[2:])
    result = Channels(outputs, (1,))
    if module in ids.even:
        columns = _tie_columns(module, ids, inputs, outputs)
        if columns is not None:
            cuts["weight"] = ((0, outputs), (1, columns))
        return Coupling(result, cuts, inputs, outputs, positions, pair_share=module.groups)
    if module.groups > 1:
        per_group = module.in_channels // module.groups
        _tie_conv_groups(module, ids, inputs, outputs)
        return Coupling(result, cuts, inputs, outputs, positions * per_group, grouped=True)
    if inputs is not None:
        cuts["weight"] = ((0, outputs), (1, inputs))
    return Coupling(result, cuts, inputs, outputs, positions)


def couple_transposed(
    module: nn.ConvTranspose2d, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a transposed convolution, whose weight is [in, out / groups, ...].

    Each input position is spread over one filter, so that those are what its cost counts.
    """
    inputs = _plain(x, 1, module.in_channels, ids)
    outputs = ids.fresh(module.out_channels)
    cuts = _along({"weight": 1, "bias": 0}, module, outputs)
    positions = places(x_shape, 1) * math.prod(module.weight.shape[2:])
    result = Channels(outputs, (1,))
    if module.groups > 1:
        _tie_conv_groups(module, ids, inputs, outputs)
        # The filters of a convolution group, tied to its outputs, lie along its inputs.
        cuts = {**cuts, "weight": ((0, outputs if inputs is None else inputs),)}
        per_group = module.in_channels // module.groups
        return Coupling(result, cuts, inputs, outputs, positions * per_group, grouped=True)
    if inputs is not None:
        cuts["weight"] = ((1, outputs), (0, inputs))
    return Coupling(result, cuts, inputs, outputs, positions)


def places(shape: Shape, axis: int) -> int:
    """Returns how many elements every channel along an axis has for one image.

    The first axis may be longer than the batch (windows of pictures), or know nothing of it.
    """
    count = math.prod(shape) // shape[axis]
    return count if shape[0] % BATCH else count // BATCH


def _tie_conv_groups(
    module: nn.modules.conv._ConvNd, ids: ChannelIds, inputs: Ids | None, outputs: Ids
) -> None:
    # What is left of it must keep its shape, so the channels of one convolution group are tied,
    # on both its sides.
    rows = outputs.reshape(module.groups, -1)
    if inputs is None:
        ids.pin(Channels(outputs, (1,)), "a grouped convolution reads channels that are kept whole")
        return
    ids.tie_rows(np.hstack([inputs.reshape(module.groups, -1), rows]))


def _tie_columns(
    module: nn.Conv2d, ids: ChannelIds, inputs: Ids | None, outputs: Ids
) -> Ids | None:
    """Ties channels that have the same place in their convolution groups; returns the inputs'."""
    ids.tie_along(outputs.reshape(module.groups, -1), 0)
    if inputs is None:
        return None
    table: Ids = inputs.reshape(module.groups, -1)
    ids.tie_along(table, 0)
    columns: Ids = table[0]
    return columns


def _along(cuts: Mapping[str, int], module: nn.Module, ids: Ids) -> Cuts:
    """Returns the cuts of those of the named tensors that the module really has."""
    have = {**module._parameters, **module._buffers}
    return {name: ((dim, ids),) for name, dim in cuts.items() if have.get(name) is not None}


def _plain(channels: Channels | None, axis: int, size: int, ids: ChannelIds) -> Ids | None:
    """Returns the identities of an input whose channels lie whole along `axis`, or None."""
    if channels is None:
        return None
    channels = ids.compact(channels)
    if channels.axes == (axis,) and len(channels.ids) == size:
        return channels.ids
    ids.pin(channels, "its channels do not lie along the axis that the next layer reads")
    return None


def couple_linear(
    module: nn.Linear, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a linear layer, which reads and writes along the last axis."""
    last = len(x_shape) - 1
    inputs = _plain(x, last, module.in_features, ids)
    outputs = ids.fresh(module.out_features)
    cuts = _along({"weight": 0, "bias": 0}, module, outputs)
    if inputs is not None:
        cuts["weight"] = ((0, outputs), (1, inputs))
    positions = places(y_shape, last)
    return Coupling(Channels(outputs, (last,)), cuts, inputs, outputs, positions)


def couple_batch_norm(
    module: nn.BatchNorm2d, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a normalisation channel by channel."""
    inputs = _plain(x, 1, module.num_features, ids)
    return _norm(module, x, inputs)


def couple_frozen_norm(
    module: nn.Module, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a batch norm whose numbers are all buffers."""
    return _norm(module, x, _plain(x, 1, len(module.get_buffer("weight")), ids))


def couple_layer_norm(
    module: nn.LayerNorm, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a layer norm over the channels."""
    size = module.normalized_shape[0]
    along_last = type(module) is nn.LayerNorm or x is None
    axis = len(x_shape) - 1 if along_last else x.axis  # type: ignore[union-attr]
    if len(module.normalized_shape) != 1:
        ids.pin(x, "layer norm over more than the channels")
        return Coupling(None)
    return _norm(module, x, _plain(x, axis, size, ids))


def couple_group_norm(
    module: nn.GroupNorm, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a group norm: its groups stay or go as one.

    One over a single group normalises however many channels there are, as a layer norm does.
    """
    inputs = _plain(x, 1, module.num_channels, ids)
    if inputs is not None and module.num_groups > 1:
        ids.tie_rows(inputs.reshape(module.num_groups, -1))
    return _norm(module, x, inputs)


def _norm(module: nn.Module, x: Channels | None, inputs: Ids | None) -> Coupling:
    if inputs is None:
        return Coupling(None)
    names = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)
    return Coupling(x, _along(names, module, inputs), inputs=inputs)


def couple_prelu(
    module: nn.PReLU, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a PReLU, with one slope or a slope per channel."""
    if module.num_parameters == 1:
        return Coupling(x)
    inputs = _plain(x, 1, module.num_parameters, ids)
    return _norm(module, x, inputs)


def couple_passing(
    module: nn.Module, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a layer that treats every element alike."""
    return Coupling(x)


def couple_spatial(
    module: nn.Module, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a layer that works on the axes behind the channels."""
    if x is not None and x.axes[-1] > 1:
        ids.pin(x, "a spatial operation runs over the channels")
        return Coupling(None)
    return Coupling(x)


def couple_blur(
    module: nn.Module, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a fixed filter, with a copy of it for every channel or with one."""
    copies = module.get_buffer("filt").shape[0]
    if copies == 1:
        return couple_spatial(module, ids, x, x_shape, y_shape)
    inputs = _plain(x, 1, copies, ids)
    return Coupling(x, {} if inputs is None else {"filt": ((0, inputs),)}, inputs=inputs)


def couple_flatten(
    module: nn.Flatten, ids: ChannelIds, x: Channels | None, x_shape: Shape, y_shape: Shape
) -> Coupling:
    """Returns the coupling of a flatten."""
    return Coupling(None if x is None else reshape_channels(ids, x, x_shape, y_shape))


def resize_conv(
    module: nn.Conv2d, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed convolution."""
    weight = tensors.get("weight", module.weight)
    outputs = weight.shape[0]
    groups = module.groups
    if groups > 1 and inputs is not None:
        groups = inputs // weight.shape[1]
    return {"out_channels": outputs, "in_channels": weight.shape[1] * groups, "groups": groups}


def resize_transposed(
    module: nn.ConvTranspose2d, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed transposed convolution; its groups keep their shape."""
    into, outputs = tensors.get("weight", module.weight).shape[:2]
    groups = module.groups
    if groups > 1:
        groups = groups * into // module.in_channels
    return {"in_channels": into, "out_channels": outputs * groups, "groups": groups}


def resize_linear(
    module: nn.Linear, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed linear layer."""
    outputs, features = tensors.get("weight", module.weight).shape
    return {"out_features": outputs, "in_features": features}


def resize_batch_norm(
    module: nn.BatchNorm2d, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed batch norm."""
    return {} if inputs is None else {"num_features": inputs}


def resize_layer_norm(
    module: nn.LayerNorm, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed layer norm."""
    return {} if inputs is None else {"normalized_shape": (inputs,)}


def resize_group_norm(
    module: nn.GroupNorm, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed group norm; its groups keep their size."""
    if inputs is None:
        return {}
    groups = module.num_groups * inputs // module.num_channels
    return {"num_channels": inputs, "num_groups": max(1, groups)}


def resize_blur(
    module: nn.Module, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a fixed filter with fewer copies."""
    return {"channels": tensors["filt"].shape[0]} if "filt" in tensors else {}


def resize_prelu(
    module: nn.PReLU, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns the attributes of a narrowed PReLU."""
    return {"num_parameters": tensors["weight"].shape[0]} if "weight" in tensors else {}


def keep_size(
    module: nn.Module, tensors: Mapping[str, Tensor], inputs: int | None
) -> dict[str, object]:
    """Returns no attributes: nothing of the layer depends on its width."""
    return {}


def conv_shape(module: nn.Conv2d, shape: Shape) -> Shape | None:
    """Returns the shape of a convolution's output, padded by zeros or not at all."""
    outputs, inputs, *kernel = module.weight.shape
    if len(shape) != 2 + len(kernel) or shape[1] != inputs * module.groups:
        return None
    if outputs % module.groups or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    axes = zip(shape[2:], kernel, module.padding, module.dilation, module.stride, strict=True)
    sizes = [
        (n + 2 * pad - dilation * (k - 1) - 1) // step + 1 for n, k, pad, dilation, step in axes
    ]
    return (shape[0], outputs, *sizes) if min(sizes) > 0 else None


def linear_shape(module: nn.Linear, shape: Shape) -> Shape | None:
    """Returns the shape of a linear layer's output."""
    outputs, inputs = module.weight.shape
    return (*shape[:-1], outputs) if shape[-1] == inputs else None


def batch_norm_shape(module: nn.BatchNorm2d, shape: Shape) -> Shape | None:
    """Returns the shape of a batch norm's output, which is that of its input."""
    return shape if len(shape) == 4 and shape[1] == module.num_features else None


def layer_norm_shape(module: nn.LayerNorm, shape: Shape) -> Shape | None:
    """Returns the shape of a layer norm's output, which is that of its input."""
    axes = module.normalized_shape
    return shape if tuple(shape[-len(axes) :]) == tuple(axes) else None


def passing_shape(module: nn.Module, shape: Shape) -> Shape:
    """Returns the shape of the output of a layer that treats every element alike."""
    return shape


def unknown_shape(module: nn.Module, shape: Shape) -> None:
    """Returns no shape: the layer has to be run to tell."""
