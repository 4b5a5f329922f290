"""A network whose weights are generated from its widths, as in MetaPruning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.network.graph import Layer, Network
from dmcp_deploy.network.layers import WEIGHTED
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.search.space import SearchSpace

_HIDDEN = 64
_LEAST_HIDDEN = 8
_LARGEST = 2**23  # numbers in the last layer of a generator, where `_LEAST_HIDDEN` allows it


class PruningNet(nn.Module):
    """Generates the weights of all layers that narrow, and runs the network on them.

    Every convolution and linear layer that reads or writes a prunable group gets its weights from
    a `Generator` of its own, for the whole layer; the supernet then cuts the leading slice out of
    them. Norms, biases, frozen weights and what else there is are the network's own, shared by all
    widths.

    Attributes:
        units: The units [groups] of which it computes; the full network at first.
    """

    def __init__(self, network: Network, space: SearchSpace, *, pretrained: bool, seed: int):
        """Prepares the generators for a network.

        Args:
            network: The network; its weights become a part of the generators', and are trained.
            space: Its groups.
            pretrained: Whether the weights were given: at first they are generated as they are,
                for all widths. Else every width starts from weights of its own.
            seed: Of the generators' weights.
        """
        super().__init__()
        self.supernet = Supernet(network)
        self.units = space.full
        self._space = space
        self._parts = _parts(network)
        random = torch.Generator().manual_seed(step_seed(seed, 0, "generators"))
        spread = 0.0 if pretrained else 1.0
        self.generators = nn.ModuleList(
            Generator(network.model.get_parameter(part.name), len(part.groups), spread, random)
            for part in self._parts
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits [N, classes] of images [N, C, H, W] at `units`."""
        keeps = self._space.widths(self.units)
        # In full precision: what is generated is a sum of many small parts.
        with torch.autocast(images.device.type, enabled=False):
            weights = {f"model.{k}": w for k, w in self.weights(self.units).items()}
        logits: Tensor = functional_call(self.supernet, weights, (images, keeps))
        return logits

    def weights(self, units: np.ndarray) -> dict[str, Tensor]:
        """Returns the weights generated for units [groups] kept, whole layers, by their names."""
        shares = units / self._space.full
        generated = {}
        for part, generator in zip(self._parts, self.generators, strict=True):
            base = self.supernet.model.get_parameter(part.name)
            code = torch.tensor(shares[list(part.groups)], dtype=base.dtype, device=base.device)
            generated[part.name] = generator(base, code)
        return generated

    @torch.no_grad()
    def settle(self, units: np.ndarray, model: nn.Module) -> None:
        """Gives a model of the network's structure the weights generated for units [groups].

        The model may be the network itself, whose own weights are lost then.
        """
        weights = self.weights(units)
        model.load_state_dict(self.supernet.model.state_dict())
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)

    def generator_params(self) -> int:
        """Returns the parameters of all generators, but for the network's own weights in them."""
        return sum(p.numel() for p in self.generators.parameters())


class Generator(nn.Module):
    """Generates a layer's weights: FC(k, h) -> ReLU -> FC(h, numbers of the layer).

    The bias of the last layer is the weight of the network itself. So its gradient is that of
    ordinary training; and as the hidden numbers have a length of about 1, the others learn at
    about the same rate.
    """

    def __init__(self, base: Tensor, inputs: int, spread: float, random: torch.Generator) -> None:
        """Prepares a generator.

        Args:
            base: The network's own weights of the layer.
            inputs: Widths that it is told.
            spread: Deviation of what is added to the base at first, in the base's deviations.
            random: The source of the generator's first weights.
        """
        super().__init__()
        hidden = hidden_size(base.numel())
        scale = math.sqrt(2 / (inputs + 1))
        self.code = nn.Parameter(scale * torch.randn(hidden, inputs, generator=random))
        self.code_bias = nn.Parameter(scale * torch.randn(hidden, generator=random))
        deviation = spread * float(base.detach().std(correction=0))
        first = torch.zeros(base.numel(), hidden)
        if deviation:
            first.normal_(0.0, deviation, generator=random)
        self.weight = nn.Parameter(first)

    def forward(self, base: Tensor, code: Tensor) -> Tensor:
        """Returns the layer's weights, shaped as the base, for shares of widths [inputs]."""
        hidden = F.relu(F.linear(code, self.code, self.code_bias))
        return base + (self.weight @ (hidden / math.sqrt(len(hidden)))).view(base.shape)


def hidden_size(numbers: int) -> int:
    """Returns the hidden numbers of a generator: 64, and less for layers of over 2**17 weights."""
    return max(_LEAST_HIDDEN, min(_HIDDEN, _LARGEST // numbers))


@dataclass(frozen=True)
class _Part:
    """A weight that is generated, and the numbers of the groups whose widths it depends on."""

    name: str
    groups: tuple[int, ...]


def _parts(network: Network) -> list[_Part]:
    owners = np.repeat(np.arange(len(network.prunable)), [g.units for g in network.prunable])
    parts: dict[int, _Part] = {}
    for layer in network.layers.values():
        groups = _groups(layer, owners)
        if groups and layer.kind in WEIGHTED:
            name = f"{layer.name}.weight"
            # Layers may share one weight; it is generated once.
            weight = network.model.get_parameter(name)
            if weight.requires_grad:
                parts.setdefault(id(weight), _Part(name, groups))
    return list(parts.values())


def _groups(layer: Layer, owners: np.ndarray) -> tuple[int, ...]:
    """Returns the prunable groups along a layer's weight, those that it reads first."""
    cuts = sorted(layer.cuts.get("weight", ()), key=lambda cut: -cut[0])
    groups = (group for _, units in cuts for group in owners[units[units >= 0]])
    return tuple(dict.fromkeys(map(int, groups)))
