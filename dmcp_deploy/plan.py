"""The channel plan: which channels of every group a pruned network keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import LATER_IF_SET, encode, load_artifact, write_artifact
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.network import SizeOptions
from dmcp_deploy.units import MULTIPLY_ADDS, format_quantity

KIND = "plan"

LOWEST_SHARE = 0.98  # of the budget: where a plan should end at least


@dataclass(frozen=True)
class NetworkSpec:
    """What it takes to build a network again.

    Attributes:
        model: A torchvision name, "timm:NAME" or "package.module:function".
        width_mult: The network's width multiplier.
        num_classes: Length of the logits.
        input_shape: (C, H, W) of the deployed input; MACs are counted there.
        transform_input: Whether the network normalises its input once more, as torchvision's
            GoogLeNet and Inception v3 do with the weights that torchvision publishes.
    """

    model: str = field(metadata={"json": "name"})
    width_mult: float = 1.0
    num_classes: int = 1000
    input_shape: tuple[int, int, int] = field(default=(3, 224, 224), metadata={"json": "input"})
    transform_input: bool = field(default=False, metadata=LATER_IF_SET)

    @classmethod
    def asked(cls, model: str, options: SizeOptions, num_classes: int) -> NetworkSpec:
        """Returns the network that a command is asked for."""
        return cls(model, options.width_mult, num_classes, options.input_shape)


@dataclass(frozen=True)
class Keep:
    """What one group keeps of its `size` channels.

    Attributes:
        size: Channels of the group in the full network.
        kept: The number of leading channels kept, or the indices of those kept, ascending.
    """

    size: int
    kept: int | tuple[int, ...] = field(metadata={"json": "keep"})

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
class PlanLimit:
    """A budget that a plan answers to.

    Attributes:
        quantity: What is limited: "parameters", "milliseconds".
        asked: The budget as the user wrote it.
        most: The most there may be of it.
        value: What the plan has of it.
    """

    quantity: str
    asked: str
    most: float
    value: float

    @property
    def share(self) -> float:
        """The share of the budget that the plan takes; at most 1.0 if it is met."""
        return self.value / self.most

    @property
    def text(self) -> str:
        """The budget with its unit: "211.0M multiply-adds"."""
        return format_quantity(self.quantity, self.most)


@dataclass(frozen=True)
class ChannelPlan:
    """The result of a search: what every channel group of a network keeps.

    Attributes:
        network: The full network that the plan prunes.
        groups: Group name -> what it keeps; pinned groups are kept whole.
        macs: Multiply-adds of the pruned network for one image.
        full_macs: Multiply-adds of the full network for one image.
        params: Parameters of the pruned network.
        budget_macs: The FLOPs budget the plan answers to; None if there was none.
        method: The search method's name.
        align: Widths are multiples of this, or the full ones, where the group is larger.
        seed: The seed of the search.
        limits: The budgets of other quantities.
        is_proven: Whether it is proven that no plan within the budgets is nearer to what the search
            wanted; None where it was not sought exactly.
        steps: Group name -> channels by which its time steps up on the target; widths are the last
            of such a step. None without a budget in time.
    """

    network: NetworkSpec = field(metadata={"json": "model"})
    groups: Mapping[str, Keep]
    macs: int
    full_macs: int
    params: int
    budget_macs: int | None
    method: str
    align: int
    seed: int
    limits: tuple[PlanLimit, ...] = field(default=(), metadata=LATER_IF_SET)
    is_proven: bool | None = field(default=None, metadata=LATER_IF_SET)
    steps: Mapping[str, int] | None = field(default=None, metadata=LATER_IF_SET)

    def widths(self) -> dict[str, int]:
        """Returns the channels kept by each group."""
        return {name: keep.width for name, keep in self.groups.items()}

    def budgets(self) -> tuple[PlanLimit, ...]:
        """Returns all budgets, that of multiply-adds first; empty if there was none."""
        if self.budget_macs is None:
            return self.limits
        asked, most = str(self.budget_macs), float(self.budget_macs)
        return (PlanLimit(MULTIPLY_ADDS, asked, most, float(self.macs)), *self.limits)

    def multiples(self) -> str:
        """Returns what widths are multiples of, in words: "8", or "8 or 16" by steps of time."""
        steps = self.steps or {}
        joint = ((name, math.lcm(self.align, step)) for name, step in steps.items())
        several = {step for name, step in joint if step < self.groups[name].size} or {self.align}
        return " or ".join(map(str, sorted(several)))

    def step_column(self) -> list[tuple[str, ...]]:
        """Returns the column of a table of groups that tells which step of time a width ends.

        Its head and a cell for each group, such as "3 of 8 by 16"; without steps, nothing each.
        """
        if self.steps is None:
            return [()] * (1 + len(self.groups))
        texts = (
            _step_text(keep, self.steps[name]) if name in self.steps else ""
            for name, keep in self.groups.items()
        )
        return [("step of time",), *((text,) for text in texts)]

    def notes(self) -> tuple[str, ...]:
        """Returns what is to be said of the plan, a sentence each."""
        return tuple(filter(None, [self.shortfall(), self.doubt()]))

    def doubt(self) -> str:
        """Returns what is to be said of a plan that is not proven to be the best; "" else."""
        if self.is_proven is not False:
            return ""
        return (
            "It is not proven that no plan within the budgets is nearer to what the search wanted."
        )

    def shortfall(self) -> str:
        """Returns what is to be said of a plan below 98% of all its budgets; "" if none is."""
        tightest = max(self.budgets(), key=lambda budget: budget.share, default=None)
        if tightest is None or tightest.share >= LOWEST_SHARE:
            return ""
        multiples = self.multiples()
        among = f"among multiples of {multiples}" if multiples != "1" else "among its widths"
        remedies = ["--align 1 offers more"] if self.align > 1 and not self.steps else []
        if tightest.quantity == MULTIPLY_ADDS:
            remedies.append(f"--flops {self.macs} is reached just so")
        return (
            "; ".join(
                [
                    f"The plan reaches {tightest.share:.1%} of the budget of {tightest.text}, where"
                    f" 98% is usual: no wider one was found {among}",
                    *filter(None, [", and ".join(remedies)]),
                ]
            )
            + "."
        )

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
        content = encode(self)
        return {name: content[name] for name in _ORDER if name in content}

    @classmethod
    def load(cls, path: Path) -> ChannelPlan:
        """Returns the plan in a file.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version.
        """
        return load_artifact(path, KIND, cls, f"The plan {path}")


def _step_text(keep: Keep, step: int) -> str:
    return f"{-(-keep.width // step)} of {-(-keep.size // step)} by {step}"


#: How a file begins with what is short.
_ORDER = (
    "model",
    "method",
    "seed",
    "align",
    "budget_macs",
    "macs",
    "full_macs",
    "params",
    "limits",
    "is_proven",
    "groups",
    "steps",
)
