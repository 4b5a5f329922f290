"""Weights that make up for the channels that go: least squares on what layers really read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmcp_deploy.network.graph import Layer, Network, Units
from dmcp_deploy.network.importance import l1_norm
from dmcp_deploy.network.trace import evaluating

#: Of a layer's output that are looked at for one image (AMC).
POSITIONS = 10

#: Of the mean square of what a layer reads: how much a change of the weights must be worth.
RIDGE = 1e-4

_SAME = 0.02  # of the largest output: TF32 stays below, another computation above


def consumers(network: Network) -> dict[str, Layer]:
    """Returns the layers whose inputs go channel by channel, by name, in order of execution.

    Grouped and depthwise convolutions are none of them: they lose whole convolution groups, and
    what stays of them reads all that it read before.
    """
    return {
        name: layer
        for name, layer in network.layers.items()
        if layer.kind in ("conv", "linear") and not _is_grouped(layer) and _reads_units(layer)
    }


def input_scores(network: Network) -> np.ndarray:
    """Returns the importance of every unit by the weights that read it, shape [units].

    It is the sum of the absolute weights of all consumers, each divided by its mean over the
    layer's channels of the group, as `filter_scores` does with the layers that produce a unit.
    Units that no consumer reads have NaN.
    """
    scores = np.full(network.unit_count, np.nan)
    for name, layer in consumers(network).items():
        assert layer.inputs is not None
        weight = _weight(network, name).detach().cpu().double()
        found = l1_norm(weight.transpose(0, 1).flatten(1)).numpy()
        for group in network.prunable:
            own = (layer.inputs >= group.first) & (layer.inputs < group.first + group.units)
            if own.any():
                span = slice(group.first, group.first + group.units)
                scores[span] = np.nan_to_num(scores[span])
                np.add.at(scores, layer.inputs[own], found[own] / (found[own].mean() or 1.0))
    return scores


def compensated(weight: Tensor, moments: Tensor, kept: Tensor, ridge: float = RIDGE) -> Tensor:
    """Returns weights that use the kept inputs alone and come nearest to the outputs of all.

    They minimise sum |W x - W' x'|^2 + lambda |W' - W'_0|^2, where x' are the kept inputs and
    W'_0 the weights that stand at them: where there are too few samples to tell, they stay as
    they are. lambda is `ridge` times the mean square of the kept inputs.

    Args:
        weight: [outputs, inputs].
        moments: sum of x x^T over samples x, float64 [inputs, inputs].
        kept: Whether each input is kept, bool [inputs].
        ridge: See above; above 0, or inputs that depend on one another have no solution.
    """
    stay, go = kept.nonzero().flatten(), (~kept).nonzero().flatten()
    square = moments[stay][:, stay]
    own = weight.detach().double()
    result = torch.zeros_like(own)
    result[:, stay] = own[:, stay]
    mean = float(square.diagonal().mean()) if len(stay) else 0.0
    if mean > 0:
        square.diagonal().add_(ridge * mean)
        lost = moments[stay][:, go] @ own[:, go].T
        factor = torch.linalg.cholesky(square)
        result[:, stay] += torch.cholesky_solve(lost, factor).T
    return result.to(weight.dtype)


class Reconstruction:
    """What all consumers of a network read, and their weights refitted to a part of it.

    Inputs are captured once, from the full network. For least squares their second moments are
    enough, so that memory does not grow with the samples.

    Attributes:
        moments: Layer -> sum of x x^T over what it read, float64 [inputs, inputs].
        samples: Layer -> how many x these are.
    """

    def __init__(self, network: Network, ridge: float = RIDGE) -> None:
        """Prepares for a network with its final weights, on their device.

        Args:
            network: The network.
            ridge: See `compensated`.
        """
        self._network, self._ridge = network, ridge
        self._columns = {name: _columns(network, name) for name in consumers(network)}
        self._whole = {name: _weight(network, name).detach().clone() for name in self._columns}
        self.moments = {name: _square(whole) for name, whole in self._whole.items()}
        self.samples = dict.fromkeys(self._columns, 0)

    @torch.no_grad()
    def observe(self, images: Tensor, generator: torch.Generator) -> None:
        """Runs the full network on images and captures what its consumers read.

        Of convolutions it is the patches behind some positions of the output, the same for all
        images of a call.

        Args:
            images: [N, C, H, W] on the network's device.
            generator: Draws the positions; on the CPU.
        """
        model = self._network.model
        handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name, generator))
            for name in self._columns
        ]
        try:
            with evaluating(model):
                model(images)
        finally:
            for handle in handles:
                handle.remove()

    def gather(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replaces what was captured by its total over all processes.

        Args:
            total: Returns the sum of a tensor over the processes.
        """
        for name, own in self.moments.items():
            self.moments[name] = total(own)
            self.samples[name] = int(total(own.new_tensor(self.samples[name])))

    @torch.no_grad()
    def refit(self, kept: np.ndarray) -> None:
        """Refits the weights of all consumers to the units that are kept, in place.

        Weights of inputs and outputs that go become zero. Frozen layers, and those whose outputs
        were not those of their type (a subclass that pads by itself), keep the others as they are.

        Args:
            kept: Whether each unit is kept, shape [units].
        """
        for name, units in self._columns.items():
            whole = self._whole[name]
            stay = _is_kept(units, kept, whole.device)
            outputs = _is_kept(self._network.layers[name].outputs, kept, whole.device)
            flat = torch.zeros_like(whole).flatten(1)
            rows = whole.flatten(1)[outputs]
            learns = _weight(self._network, name).requires_grad
            flat[outputs] = (
                compensated(rows, self.moments[name], stay, self._ridge) if learns else rows * stay
            )
            _weight(self._network, name).copy_(flat.view_as(whole))

    @torch.no_grad()
    def restore(self, *, frozen: bool = False) -> None:
        """Gives all consumers their own weights back, in place, or those alone that are frozen."""
        for name, whole in self._whole.items():
            weight = _weight(self._network, name)
            if not (frozen and weight.requires_grad):
                weight.copy_(whole)

    @contextmanager
    def refitted(self, kept: np.ndarray) -> Iterator[None]:
        """Refits the weights within a context, and restores them at its end."""
        self.refit(kept)
        try:
            yield
        finally:
            self.restore()

    def _hook(self, name: str, generator: torch.Generator) -> Callable[..., None]:
        def capture(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            rows, outputs = _samples(module, inputs[0], output, generator)
            if _computes(module, rows, outputs):
                exact = rows.double()
                self.moments[name] += exact.T @ exact
                self.samples[name] += len(rows)

        return capture


def _is_grouped(layer: Layer) -> bool:
    return layer.grouped or layer.pair_share > 1


def _reads_units(layer: Layer) -> bool:
    return layer.inputs is not None and bool((layer.inputs >= 0).any())


def _weight(network: Network, name: str) -> Tensor:
    return network.model.get_submodule(name).get_parameter("weight")


def _columns(network: Network, name: str) -> Units:
    """Returns the unit of every column of a layer's weights, flattened to [outputs, inputs]."""
    inputs = network.layers[name].inputs
    assert inputs is not None
    return np.repeat(inputs, _weight(network, name)[0, 0].numel())


def _is_kept(units: Units | None, kept: np.ndarray, device: torch.device) -> Tensor:
    """Returns whether each position of an axis is kept, as a mask."""
    assert units is not None
    return torch.from_numpy(np.append(kept, True)[units]).to(device)


def _square(weight: Tensor) -> Tensor:
    side = weight[0].numel()
    return torch.zeros(side, side, dtype=torch.float64, device=weight.device)


def _samples(
    module: nn.Module, x: Tensor, output: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns inputs [rows, inputs] of a layer at some positions, and its outputs there."""
    if isinstance(module, nn.modules.conv._ConvNd):
        places = _drawn(output.shape[2:], generator)
        padded = _padded(module, x)
        rows = torch.stack([_patch(module, padded, place) for place in places])
        return rows.flatten(0, 1), torch.cat([_at(output, place) for place in places])
    width, outputs = x.shape[-1], output.shape[-1]
    rows_of, outputs_of = x.reshape(len(x), -1, width), output.reshape(len(x), -1, outputs)
    at = [place for (place,) in _drawn(rows_of.shape[1:2], generator)]
    return rows_of[:, at].flatten(0, 1), outputs_of[:, at].flatten(0, 1)


def _drawn(shape: torch.Size, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Returns some different places of a grid, all of them where there are few."""
    chosen = torch.randperm(math.prod(shape), generator=generator)[:POSITIONS]
    axes = np.unravel_index(chosen.numpy(), tuple(shape))
    return list(zip(*(axis.tolist() for axis in axes), strict=True))


def _at(x: Tensor, place: tuple[int, ...]) -> Tensor:
    """Returns all channels at one place, [N, channels]."""
    for index in reversed(place):
        x = x[..., index]
    return x


def _padded(module: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, module._reversed_padding_repeated_twice, mode=mode)


def _patch(module: nn.modules.conv._ConvNd, x: Tensor, place: tuple[int, ...]) -> Tensor:
    """Returns what a convolution reads for one position of its output, [N, inputs].

    Where a subclass pads by itself there may be less to read; zeros fill the row up, and
    `_computes` tells it from the layer's own computation.
    """
    windows: list[slice] = [
        slice(at * stride, at * stride + dilation * (size - 1) + 1, dilation)
        for at, stride, dilation, size in zip(
            place, module.stride, module.dilation, module.kernel_size, strict=True
        )
    ]
    whole: list[slice] = [slice(None), slice(None)]
    found = x[tuple(whole + windows)].flatten(1)
    return F.pad(found, (0, module.weight[0].numel() - found.shape[1]))


def _computes(module: nn.Module, rows: Tensor, outputs: Tensor) -> bool:
    """Returns whether a layer's weights make these outputs of these inputs."""
    weight, bias = module.get_parameter("weight").flatten(1), module._parameters.get("bias")
    gap = (F.linear(rows, weight, bias) - outputs).abs().max()
    return bool(gap <= _SAME * outputs.abs().max())
