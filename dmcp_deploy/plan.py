"""The channel plan: which channels of every group a pruned network keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import read_artifact, write_artifact
from dmcp_deploy.errors import DmcpError

KIND = "plan"


@dataclass(frozen=True)
class NetworkSpec:
    """What it takes to build a network again.

    Attributes:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        width_mult: The network's width multiplier.
        num_classes: Length of the logits.
        input_shape: (C, H, W) of the deployed input; MACs are counted there.
    """

    model: str
    width_mult: float = 1.0
    num_classes: int = 1000
    input_shape: tuple[int, int, int] = (3, 224, 224)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {
            "name": self.model,
            "width_mult": self.width_mult,
            "num_classes": self.num_classes,
            "input": list(self.input_shape),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> NetworkSpec:
        """Returns the spec that `to_json` wrote."""
        channels, height, width = _wholes(content, "input")
        return cls(
            str(content["name"]),
            float(content["width_mult"]),
            _whole(content, "num_classes"),
            (channels, height, width),
        )


@dataclass(frozen=True)
class Keep:
    """What one group keeps of its `size` channels.

    Attributes:
        size: Channels of the group in the full network.
        kept: The number of leading channels kept, or the indices of those kept, ascending.
    """

    size: int
    kept: int | tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.kept, int):
            if not 1 <= self.kept <= self.size:
                raise DmcpError(f"A group of {self.size} channels cannot keep {self.kept}.")
            return
        indices = self.kept
        if not indices or list(indices) != sorted(set(indices)):
            raise DmcpError("Kept channel indices must be ascending, each once, at least one.")
        if indices[0] < 0 or indices[-1] >= self.size:
            raise DmcpError(
                f"Kept channel indices run from {indices[0]} to {indices[-1]} in a group of"
                f" {self.size} channels."
            )

    @property
    def width(self) -> int:
        """Channels kept."""
        return self.kept if isinstance(self.kept, int) else len(self.kept)

    def indices(self) -> list[int]:
        """Returns the indices of the kept channels, ascending."""
        return list(range(self.kept)) if isinstance(self.kept, int) else list(self.kept)


@dataclass(frozen=True)
class ChannelPlan:
    """The result of a search: what every channel group of a network keeps.

    Attributes:
        network: The full network that the plan prunes.
        groups: Group name -> what it keeps; pinned groups are kept whole.
        macs: Multiply-adds of the pruned network for one image.
        full_macs: Multiply-adds of the full network for one image.
        params: Parameters of the pruned network.
        budget_macs: The budget the plan answers to; None if there was none.
        method: The search method's name.
        align: Widths are multiples of this where the group is larger.
        seed: The seed of the search.
    """

    network: NetworkSpec
    groups: Mapping[str, Keep]
    macs: int
    full_macs: int
    params: int
    budget_macs: int | None
    method: str
    align: int
    seed: int

    def widths(self) -> dict[str, int]:
        """Returns the channels kept by each group."""
        return {name: keep.width for name, keep in self.groups.items()}

    def check_fits(self, sizes: Mapping[str, int], model: str) -> None:
        """Checks that the plan's groups are those of a network.

        Args:
            sizes: Group name -> channels of the network at hand.
            model: The network's name, for the message.

        Raises:
            DmcpError: A group is missing, unknown, or of another size.
        """
        ours = {name: keep.size for name, keep in self.groups.items()}
        if ours == dict(sizes):
            return
        odd = sorted(set(ours.items()) ^ set(sizes.items()))[0][0]
        raise DmcpError(
            f"The plan was made for {self.network.model} x{self.network.width_mult:g} and does"
            f" not fit {model}: group {odd!r} has {ours.get(odd, 'no')} channels in the plan and"
            f" {sizes.get(odd, 'none')} in the network."
        )

    def save(self, path: Path) -> None:
        """Writes the plan as JSON."""
        write_artifact(path, KIND, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        return {
            "model": self.network.to_json(),
            "method": self.method,
            "seed": self.seed,
            "align": self.align,
            "budget_macs": self.budget_macs,
            "macs": self.macs,
            "full_macs": self.full_macs,
            "params": self.params,
            "groups": {
                name: {
                    "size": keep.size,
                    "keep": keep.kept if isinstance(keep.kept, int) else list(keep.kept),
                }
                for name, keep in self.groups.items()
            },
        }

    @classmethod
    def load(cls, path: Path) -> ChannelPlan:
        """Returns the plan in a file.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version.
        """
        content = read_artifact(path, KIND)
        try:
            return cls._from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise DmcpError(f"The plan {path} lacks or misstates {err}.") from err
        except DmcpError as err:
            raise DmcpError(f"The plan {path} is not valid: {err}") from err

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> ChannelPlan:
        return cls(
            network=NetworkSpec.from_json(content["model"]),
            groups={name: _keep(name, item) for name, item in content["groups"].items()},
            macs=_whole(content, "macs"),
            full_macs=_whole(content, "full_macs"),
            params=_whole(content, "params"),
            budget_macs=None if content["budget_macs"] is None else _whole(content, "budget_macs"),
            method=str(content["method"]),
            align=_whole(content, "align"),
            seed=_whole(content, "seed"),
        )


def _keep(name: str, item: Mapping[str, Any]) -> Keep:
    listed = isinstance(item["keep"], list)
    kept = _wholes(item, "keep") if listed else _whole(item, "keep")
    try:
        return Keep(_whole(item, "size"), kept)
    except DmcpError as err:
        raise DmcpError(f"group {name!r}: {err}") from err


def _whole(content: Mapping[str, Any], key: str) -> int:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key!r}: {value!r}")
    return value


def _wholes(content: Mapping[str, Any], key: str) -> tuple[int, ...]:
    return tuple(_whole({key: value}, key) for value in content[key])
