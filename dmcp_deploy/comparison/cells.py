"""What is compared: methods, budgets and seeds; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import METHODS, near_matches

#: After a method's name, as in the paper's table: the pruned network is trained by distillation.
STAR = "*"


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a search method, and how its networks are trained.

    Attributes:
        method: The search method.
        distill: Whether the pruned network is trained by in-place distillation.
    """

    method: str
    distill: bool = False

    def __str__(self) -> str:
        """Returns the name it goes by: "dmcp", or "dmcp*" with distillation."""
        return f"{self.method}{STAR if self.distill else ''}"


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        entry: Method and training.
        budget: The FLOPs budget as text.
        seed: The seed of all its randomness.
    """

    entry: Entry
    budget: str
    seed: int

    @property
    def folder(self) -> str:
        """The name of its run directory."""
        training = "-distilled" if self.entry.distill else ""
        budget = self.budget.strip().lower().replace("%", "pct").replace(" ", "")
        return f"{self.entry.method}{training}-{budget}-seed{self.seed}"

    def __str__(self) -> str:
        """Returns the cell in words."""
        return f"{self.entry} at {self.budget}, seed {self.seed}"


def parse_entries(text: str) -> list[Entry]:
    """Returns the rows that a list such as "dmcp,autoslim*,uniform" or "all" names, each once.

    Raises:
        DmcpError: A name is no method's.
    """
    names = [part.strip() for part in text.split(",")]
    entries: list[Entry] = []
    for name in names:
        known = METHODS if name in ("all", f"all{STAR}") else (name.removesuffix(STAR),)
        entries += [Entry(_known(method), name.endswith(STAR)) for method in known]
    return list(dict.fromkeys(entries))


def all_cells(entries: Sequence[Entry], budgets: Sequence[str], seeds: int) -> list[Cell]:
    """Returns every cell, one seed after the other: a first whole table is there early."""
    return [
        Cell(entry, budget, seed)
        for seed in range(seeds)
        for budget in budgets
        for entry in entries
    ]


def _known(method: str) -> str:
    if method not in METHODS:
        raise DmcpError(
            f"--methods {method!r} is unknown: choose all, or some of {', '.join(METHODS)}, each"
            f" with {STAR} behind it for training by distillation{near_matches(method, METHODS)}"
        )
    return method
