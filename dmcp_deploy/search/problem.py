"""What every search method receives and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from dmcp_deploy.data.size import Size, scaled_size
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import Keep
from dmcp_deploy.rundir.directory import SHARED
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.fit import WidthGrid, fit_widths
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.training.loop import LoopSettings, SharedPart
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe

_T = TypeVar("_T")

_STEPS_PER_BATCH = 10


@dataclass(frozen=True)
class SearchProblem:
    """One search: a network, its budgets, data and what was asked of the run.

    Attributes:
        network: The full network; a method trains its weights in place.
        accounting: What is recorded of plans: multiply-adds, parameters, costs of layers.
        space: The widths on offer.
        grid: The widths a plan may take.
        limits: The budgets, all of which a plan must meet.
        data: Images; None for methods that look at none.
        recipe: Steps, learning rates, batch size.
        request: What was asked for: the seed of all randomness, `max_steps`, `sampling`.
        compute: How it is computed: workers, checkpoints, progress.
        precision: Device and arithmetic.
        folder: Where checkpoints and metrics go.
        pretrained: Whether the network's weights were given, not random.
        is_done: Whether the search has ended before: then nothing is trained again.
    """

    network: Network
    accounting: NetworkCost
    space: SearchSpace
    grid: WidthGrid
    limits: Limits
    data: ImageData | None
    recipe: Recipe
    request: RunRequest
    compute: Compute
    precision: Precision
    folder: Path
    pretrained: bool = False
    is_done: bool = False

    @property
    def image_size(self) -> Size:
        """Height and width of the training images in pixels."""
        return scaled_size(self.network.spec.input_shape[1:], self.recipe.train_size)

    def cap(self, steps: int) -> int:
        """Returns a number of steps within the limit, at least 1."""
        return max(1, min(steps, self.request.max_steps or steps))

    def cap_batches(self, batches: int) -> int:
        """Returns how many of the batches that judge plans are looked at, at least 1.

        In a trial it is one for every ten of its `max_steps`.
        """
        return max(1, self.cap(_STEPS_PER_BATCH * batches) // _STEPS_PER_BATCH)

    def uniform_units(self, limits: Limits) -> np.ndarray:
        """Returns the units of the one width multiplier that meets budgets, shape [groups]."""
        return fit_widths(limits, self.grid, self.space.full.astype(np.float64))

    def widths_near(self, wanted: np.ndarray, limits: Limits) -> dict[str, int]:
        """Returns the widths near wanted units [groups] that meet budgets, by group."""
        return self.space.widths(fit_widths(limits, self.grid, wanted.astype(np.float64)))

    def loop_settings(self, name: str, steps: int, shared: int = 0) -> LoopSettings:
        """Returns how a loop of this search runs; its files are named after it.

        Args:
            name: The loop.
            steps: Its steps.
            shared: The first of them that do not depend on the budget.
        """
        part = None
        if shared:
            lender = self.compute.supernet
            given = None if lender is None else Path(lender) / SHARED
            token = self.request.shared().token()
            part = SharedPart(shared, token, self.folder / SHARED, given)
        return LoopSettings(
            title=name,
            steps=steps,
            seed=self.request.seed,
            token=self.request.token(),
            checkpoint=self.folder / "checkpoints" / f"{name}.safetensors",
            metrics=self.folder / "metrics" / f"{name}.jsonl",
            checkpoint_s=self.compute.checkpoint_s,
            tensorboard=self.compute.tensorboard,
            shared=part,
            is_done=self.is_done,
        )

    def progress_over(self, items: Iterable[_T], title: str) -> Iterator[_T]:
        """Yields items and reports each as done when the next one is asked for."""
        waiting = list(items)
        with self.compute.progress.task(title, len(waiting)) as bar:
            for item in waiting:
                yield item
                bar.advance()


#: Limits -> prunable group -> channels kept from the front, or a Keep.
Decode = Callable[[Limits], Mapping[str, int | Keep]]


@dataclass(frozen=True)
class SearchResult:
    """What a method found.

    Attributes:
        widths: Prunable group -> channels kept from the front, or a Keep.
        figures: Numbers worth keeping in the run's record (expected MACs, candidates, ...).
        trained: Whether the network's weights were trained on the way.
        decode: Returns the widths again, for other limits, from what was learned: nothing is
            trained. Methods that leave the plan's own weights in the network leave the new ones.
    """

    widths: Mapping[str, int | Keep]
    figures: Mapping[str, object]
    trained: bool
    decode: Decode = field(compare=False)

    @classmethod
    def decoded(
        cls, problem: SearchProblem, decode: Decode, figures: Mapping[str, object], *, trained: bool
    ) -> SearchResult:
        """Returns the result whose widths are decoded under the problem's own limits."""
        return cls(decode(problem.limits), figures, trained, decode)

    def channels(self) -> dict[str, int]:
        """Returns the number of channels that each group keeps."""
        return channel_counts(self.widths)


class DecodedWidths(dict[str, int | Keep]):
    """Prunable group -> channels kept, the best that an exact decoder has found.

    Attributes:
        is_proven: Whether it is proven that none are better.
    """

    def __init__(self, widths: Mapping[str, int | Keep], *, is_proven: bool) -> None:
        """Takes the widths, and whether they are proven to be the best."""
        super().__init__(widths)
        self.is_proven = is_proven


def channel_counts(widths: Mapping[str, int | Keep]) -> dict[str, int]:
    """Returns the number of channels that each group keeps."""
    return {name: w.width if isinstance(w, Keep) else int(w) for name, w in widths.items()}


#: A search method: returns widths that meet the problem's budget.
Method = Callable[[SearchProblem], SearchResult]
