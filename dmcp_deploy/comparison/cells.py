"""What is compared: methods, budgets and seeds; torch-free."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import METHODS, near_matches

#: After a method's name, as in the paper's table: the pruned network is trained by distillation.
STAR = "*"
#: Between two methods: the plan of the first, cut out of the full network that the second trained.
AT = "@"

#: Methods whose plans are the same whatever the weights are, and keep leading channels.
_BLIND = ("random", "uniform")
#: Methods whose searches leave weights that every width shares.
_SUPERNETS = ("autoslim", "budget-only", "dmcp")


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a search method, and how its networks are trained.

    Attributes:
        method: The search method.
        distill: Whether the pruned network is trained by in-place distillation.
        supernet: The method whose search has trained the weights that the pruned network is cut
            out of; None for its own.
    """

    method: str
    distill: bool = False
    supernet: str | None = None

    @property
    def lender(self) -> Entry | None:
        """The row whose searches train its weights, where these are not its own."""
        return None if self.supernet is None else Entry(self.supernet, self.distill)

    def __str__(self) -> str:
        """Returns the name it goes by: "dmcp", "dmcp*" with distillation, "uniform@dmcp"."""
        weights = "" if self.supernet is None else f"{AT}{self.supernet}"
        return f"{self.method}{weights}{STAR if self.distill else ''}"


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        entry: Method and training.
        budget: The budgets as text.
        seed: The seed of all its randomness.
    """

    entry: Entry
    budget: str
    seed: int

    @property
    def lender(self) -> Cell | None:
        """The run whose search trains its weights, where these are not its own."""
        return None if self.entry.lender is None else replace(self, entry=self.entry.lender)

    @property
    def folder(self) -> str:
        """The name of its run directory."""
        weights = "" if self.entry.supernet is None else f"-from-{self.entry.supernet}"
        training = "-distilled" if self.entry.distill else ""
        budget = self.budget.strip().lower().replace("%", "pct").replace(" ", "")
        return f"{self.entry.method}{weights}{training}-{budget}-seed{self.seed}"

    def __str__(self) -> str:
        """Returns the cell in words."""
        return f"{self.entry} at {self.budget}, seed {self.seed}"


def parse_entries(text: str) -> list[Entry]:
    """Returns the rows that a list such as "dmcp,uniform@dmcp,autoslim*" or "all" names, each once.

    A row that is cut out of another one's full network brings that one along.

    Raises:
        DmcpError: A name is no method's.
    """
    entries = [entry for part in text.split(",") for entry in _named(part.strip())]
    return list(dict.fromkeys(entries))


def all_cells(entries: Sequence[Entry], budgets: Sequence[str], seeds: int) -> list[Cell]:
    """Returns every cell, one seed after the other: a first whole table is there early."""
    return [
        Cell(entry, budget, seed)
        for seed in range(seeds)
        for budget in budgets
        for entry in entries
    ]


def _named(name: str) -> list[Entry]:
    distill = name.endswith(STAR)
    method, at, supernet = name.removesuffix(STAR).partition(AT)
    if at:
        _check_known(method, _BLIND, f"{name!r}: before {AT}")
        _check_known(supernet, _SUPERNETS, f"{name!r}: behind {AT}")
        return [Entry(supernet, distill), Entry(method, distill, supernet)]
    if method == "all":
        return [Entry(each, distill) for each in METHODS]
    if method not in METHODS:
        raise DmcpError(
            f"--methods {method!r} is unknown: choose all, or some of {', '.join(METHODS)}, each"
            f" with {STAR} behind it for training by distillation{near_matches(method, METHODS)}"
        )
    return [Entry(method, distill)]


def _check_known(method: str, known: Collection[str], place: str) -> None:
    if method not in known:
        raise DmcpError(
            f"--methods {place} stands one of {', '.join(known)}, not {method!r}"
            f"{near_matches(method, known)}"
        )
