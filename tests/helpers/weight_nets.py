"""Small networks with something about their weights: names, versions, places, frozen ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(nn.Module):
    """Two convolutions and a classifier, which may be registered before them."""

    def __init__(self, num_classes: int = 3, head_first: bool = False) -> None:
        super().__init__()
        if head_first:
            self.head = nn.Linear(24, num_classes)
        self.first, self.first_norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.second, self.second_norm = nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24)
        if not head_first:
            self.head = nn.Linear(24, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first_norm(self.first(x)))
        x = F.relu(self.second_norm(self.second(x)))
        return self.head(x.mean((2, 3)))


def plain(num_classes: int = 3) -> nn.Module:
    return Plain(num_classes)


class Wrapped(nn.Module):
    """The same inside another module, so that its own names begin with `module.`."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.module = Plain(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class Legacy(Plain):
    """Reads the name that its second convolution had in an older release."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}conv2.weight" in state:
            state[f"{prefix}second.weight"] = state.pop(f"{prefix}conv2.weight")
        super()._load_from_state_dict(state, prefix, *rest)


class Versioned(nn.Module):
    """Refuses states without a version, and doubles what its first release has written."""

    _version = 2

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        version = local_metadata.get("version")
        if version == 1:
            state[f"{prefix}conv.weight"] = 2 * state[f"{prefix}conv.weight"]
        elif version != 2:
            raise ValueError(f"no release of this network has written version {version}")
        super()._load_from_state_dict(state, prefix, local_metadata, *rest)


class Noted(Plain):
    """Puts more than tensors into its state."""

    def get_extra_state(self) -> dict[str, str]:
        return {"made": "by hand"}

    def set_extra_state(self, state: dict[str, str]) -> None:
        assert state == self.get_extra_state()


class Aliased(nn.Module):
    """A backbone whose stages are registered a second time, and a scale that two modules hold."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.backbone = Plain(num_classes)
        self.backbone.head = nn.Identity()
        part = self.backbone
        self.stem = nn.Sequential(part.first, part.first_norm, nn.ReLU())
        self.stage = nn.ModuleList([part.second, part.second_norm])
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, 24).view(1, -1, 1, 1))
        self.backbone.scale = self.scale
        self.head = nn.Linear(24, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage[1](self.stage[0](self.stem(x))) * self.scale
        return self.head(F.relu(x).mean((2, 3)))


class Frozen(Plain):
    """The first convolution is a set of fixed filters, its norm fixed as well."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.first.weight = nn.Parameter(fixed_filters(), requires_grad=False)
        self.first_norm.requires_grad_(False)


class FrozenStart(Plain):
    """Freezes the random start of its first convolution, which weights are to be loaded into."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.first.requires_grad_(False)


def fixed_filters() -> Tensor:
    """Returns edges in two directions at eight strengths, [16, 3, 3, 3]."""
    edge = torch.tensor([[1.0, 0.0, -1.0]] * 3)
    both = torch.stack([edge, edge.T]).repeat(8, 1, 1)[:, None].expand(-1, 3, -1, -1)
    return both * torch.linspace(0.1, 1.0, 16).view(-1, 1, 1, 1)


def with_weights(num_classes: int = 3) -> nn.Module:
    """A builder that loads weights; the classifier alone is new at each call."""
    net = Plain(num_classes)
    stored = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for layer in (net.first, net.second):
            layer.weight.normal_(0, 0.2, generator=stored)
        net.first.weight[:8] *= 1e-3  # the leading filters matter least
    return net


def self_seeded(num_classes: int = 3) -> nn.Module:
    """A builder of random weights that are the same at every call."""
    torch.manual_seed(7)
    return Plain(num_classes)


class FixedStatistics(Frozen):
    """Keeps its first norm in evaluation mode, whatever the others do."""

    def train(self, mode: bool = True) -> FixedStatistics:
        super().train(mode)
        self.first_norm.eval()
        return self
