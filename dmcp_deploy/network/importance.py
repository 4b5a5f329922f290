"""How important channels are: filters and scales, added up over the layers of a group."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.aliases import names_of_tensors, tensors_of
from dmcp_deploy.network.graph import Group, Layer, Network, Units
from dmcp_deploy.network.trace import evaluating

#: Filters of one layer, one a row, shape [N, D] -> the importance of each, shape [N].
Measure = Callable[[Tensor], Tensor]

#: How much sorting may change logits: of what two images make of a difference in FP64, and of the
#: largest logit in FP32. Sums are added up in another order, which rounds by some 1e-14 and 1e-6; a
#: tensor that is sorted wrongly shows in the first digits.
_SORTING_TOLERANCE = 1e-5
_ROUNDED_TOLERANCE = 1e-4
_FAINT = 1e-8  # of the largest logit; less than that FP64 does not tell from rounding


def l1_norm(filters: Tensor) -> Tensor:
    """Returns the sum of the absolute weights of each filter, shape [N]."""
    return filters.abs().sum(1)


def l2_norm(filters: Tensor) -> Tensor:
    """Returns the Euclidean norm of each filter, shape [N]."""
    return filters.square().sum(1).sqrt()


def distance_sum(filters: Tensor) -> Tensor:
    """Returns the sum of the Euclidean distances from each filter to all others, shape [N].

    The smallest belongs to the filter nearest to the geometric median of all (FPGM, equation 6).
    """
    return torch.cdist(filters, filters).sum(1)


def filter_scores(network: Network, measure: Measure) -> np.ndarray:
    """Returns the importance of every unit by the filters that produce it, shape [units].

    A unit's filters are those of all layers that produce its group: the last convolutions of
    residual blocks, a depthwise convolution beside the one that it reads. Their measures are
    added up, each divided by its mean over the layer's filters of the group: what normalises a
    layer's output makes the scale of its weights arbitrary, so no layer may outweigh the others
    by it.
    """
    scores = np.zeros(network.unit_count)
    for group, layer, units in _members(network):
        if layer.outputs is not None:
            found = measure(_filters(network, layer, units, group))
            np.add.at(scores, units[_of(group, units)], (found / _mean(found)).numpy())
    return scores


def scale_scores(network: Network) -> np.ndarray:
    """Returns the sum of every unit's absolute scales in normalisations, shape [units].

    Scales compare as they are, since each multiplies activations of variance 1. Units that no
    normalisation scales have NaN.
    """
    scores = np.full(network.unit_count, np.nan)
    for group, layer, units in _members(network):
        if layer.outputs is None and "weight" in layer.cuts:
            at = units[_of(group, units)]
            scores[at] = np.nan_to_num(scores[at])
            found = l1_norm(_filters(network, layer, units, group))
            np.add.at(scores, at, found.numpy())
    return scores


def sort_channels(network: Network) -> None:
    """Puts the channels of every group in order of importance, in place, and proves it harmless.

    Raises:
        DmcpError: The network computes something else afterwards; it then is as it was.
    """
    model, tensors = network.model, sorted_tensors(network)
    ordered = copy.deepcopy(model)
    ordered.load_state_dict(tensors, strict=False)
    change, tolerance = _change(model, ordered, network.spec.input_shape)
    if not change <= tolerance:
        raise DmcpError(
            f"Sorting the channels of {network.spec.model} by importance would change logits, by"
            f" {change:.1g} of how far those of two images differ: prune it without --weights, and"
            " report this network."
        )
    model.load_state_dict(tensors, strict=False)


def sorted_tensors(network: Network) -> dict[str, Tensor]:
    """Returns the network's state with the channels of every group in order of importance.

    A prefix of channels then holds the most important ones by the L1 norms of their filters (see
    `filter_scores`). A network that loads these tensors computes what it computed before:
    channels only trade places. A tensor with several names is sorted under all of them.
    """
    order, names = _order(network), names_of_tensors(network.model)
    tensors = tensors_of(network.model)
    tensors.update((name, tensor.detach().clone()) for name, tensor in list(tensors.items()))

    def permute(name: str, dim: int, units: Units) -> None:
        if name in tensors:
            positions = _positions(units, order).to(tensors[name].device)
            permuted = tensors[name].index_select(dim, positions)
            tensors.update((other, permuted) for other in names[name] if other in tensors)

    for layer in network.layers.values():
        for tensor, cuts in layer.cuts.items():
            for dim, units in cuts:
                permute(f"{layer.name}.{tensor}", dim, units)
    for name, (dim, units) in network.parameters.items():
        permute(name, dim, units)
    return tensors


def _members(network: Network) -> Iterator[tuple[Group, Layer, Units]]:
    """Yields every prunable group with each layer that makes or normalises its channels.

    With them come the unit numbers of all the layer's channels, or filters where it has some.
    """
    for group in network.prunable:
        for layer in map(network.layers.__getitem__, group.layers):
            units = layer.inputs if layer.outputs is None else layer.outputs
            if "weight" in layer.cuts:
                units = layer.cuts["weight"][0][1]
            assert units is not None
            yield group, layer, units


def _of(group: Group, units: Units) -> np.ndarray:
    """Returns which of a layer's channels are the group's."""
    return np.asarray((units >= group.first) & (units < group.first + group.units))


def _filters(network: Network, layer: Layer, units: Units, group: Group) -> Tensor:
    """Returns a layer's weights for a group's channels, one filter a row, on the CPU."""
    weight = network.model.get_submodule(layer.name).get_parameter("weight").detach()
    rows = torch.from_numpy(np.flatnonzero(_of(group, units)))
    along = weight.cpu().double().movedim(layer.cuts["weight"][0][0], 0)
    return along.reshape(len(units), -1)[rows]


def _mean(found: Tensor) -> float:
    return float(found.mean()) or 1.0  # of filters that are all zero, or all alike


def _order(network: Network) -> np.ndarray:
    """Returns, for every unit number, the unit that takes its place."""
    scores = filter_scores(network, l1_norm)
    order = np.arange(network.unit_count)
    for group in network.prunable:
        span = slice(group.first, group.first + group.units)
        order[span] = group.first + np.argsort(-scores[span], kind="stable")
    return order


def _positions(units: Units, order: np.ndarray) -> Tensor:
    """Returns the old position of what each position of an axis holds after sorting."""
    by_unit = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[by_unit], units)
    ranks = np.empty(len(units), dtype=np.int64)
    ranks[by_unit] = np.arange(len(units)) - starts[by_unit]
    wanted = np.where(units < 0, -1, order[units])
    return torch.from_numpy(by_unit[np.searchsorted(units[by_unit], wanted) + ranks])


def _change(model: nn.Module, ordered: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """Returns how far the logits of two networks differ, and how far they may.

    It is a share of what two images make of a difference: logits may hang on biases alone.
    """
    images = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    images = images.to(next(model.parameters()).device)
    try:
        exact = [copy.deepcopy(one).double() for one in (model, ordered)]
        before, after = (_logits(one, images.double()) for one in exact)
        told = (before[0] - before[1]).abs().max().clamp_min(_FAINT * before.abs().max())
        return _share(after - before, told), _SORTING_TOLERANCE
    except RuntimeError:  # a forward pass that makes FP32 tensors itself
        before, after = (_logits(one, images) for one in (model, ordered))
        return _share(after - before, before), _ROUNDED_TOLERANCE


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Returns all numbers that a network makes of each image, [images, numbers], in FP64."""
    devices = [images.device] if images.is_cuda else []
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        return torch.stack([_numbers(model, image) for image in images])


def _numbers(model: nn.Module, image: Tensor) -> Tensor:
    torch.manual_seed(0)
    outputs = [out for out in pytree.tree_leaves(model(image)) if isinstance(out, Tensor)]
    return torch.cat([out.flatten().double() for out in outputs])


def _share(change: Tensor, scale: Tensor) -> float:
    return float(change.abs().max() / scale.abs().max().clamp_min(1e-30))
