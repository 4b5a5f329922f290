"""Options of a comparison of search methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmcp_deploy.options.declare import check, option
from dmcp_deploy.options.run import INITS, Budgets
from dmcp_deploy.registry import METHODS

#: As `weights`: the full network is trained first, once for every seed.
TRAINED = "trained"

#: Measuring time of a network and batch size where it is not given.
COMPARE_SECONDS = 4.0

_MOST_SEEDS = 100


@dataclass(frozen=True)
class CompareOptions(Budgets):
    """What is compared, at which budgets; bad values raise DmcpError.

    Attributes:
        methods: "all", or names such as "dmcp,autoslim*,uniform@dmcp": a star trains by
            distillation, and a name behind an @ tells whose trained weights are cut.
        seeds: How many; they are 0, 1, ...
        jobs: Cells at a time, each in a process of its own if more than 1.
        out: The folder; "runs/compare-MODEL" by default.
        weights: What every search starts from: "trained" trains the full network first, once
            for every seed, by the recipe's training schedule; None, "imagenet" or a file.
        init: What every pruned network starts from: "sliced" or "scratch".
    """

    methods: str = option(
        "all",
        help=f"Some of {', '.join(METHODS)}; a star behind one distils: dmcp*; uniform@dmcp cuts"
        " uniform widths out of what dmcp has trained.",
    )
    seeds: int = option(
        3,
        least=1,
        most=_MOST_SEEDS,
        remark=": it is how many there are",
        help="How many seeds: 0, 1, ...",
    )
    jobs: int = option(1, least=1, help="Runs at a time.")
    out: Path | str | None = option(None, help="Folder of the runs and the page.")
    weights: str | None = option(
        TRAINED,
        words={"none": None},
        help="What searches start from: trained (here, once a seed), none, imagenet or a file.",
    )
    init: str = option("sliced", choices=INITS, help="Pruned start: scratch or sliced.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self)
