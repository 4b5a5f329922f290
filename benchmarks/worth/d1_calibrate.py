"""D1: which task and length can tell 1.35 times the multiply-adds apart, before any search?

    python benchmarks/worth/d1_calibrate.py --task duo48      # about 75 minutes on 2 cores
    python benchmarks/worth/d1_calibrate.py --task fashion    # about 30 minutes
    python benchmarks/worth/d1_calibrate.py --task duo48 --report

Networks of uniform widths are trained at the budget T and at 1.35 T, 6 seeds each, per number
of steps. The paper's margins are worth 1.3 to 1.4 times the multiply-adds, so a task on
which these two cannot be told apart can tell nothing of a search. The rule, fixed before the run:
go on only where the difference is at least 1.5 points and the deviation over seeds at most 0.6.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from worth.analysis import Mean, arm_mean, arms_of, welch
from worth.book import Book, Job, asked, parser
from worth.lab import Lab

ARMS = ("uniform", "uniform, larger")
LEAST_RISE, MOST_DEVIATION = 1.5, 0.6  # points


def main() -> None:
    """Trains what is missing and prints the table."""
    made = parser("d1_calibrate", __doc__)
    made.add_argument("--lengths", default="2000,6000", help="Numbers of training steps.")
    options = asked(made, lengths="2,3")
    book = Book(options)
    if not options.report:
        book.do(_jobs(options))
    print(report(book.content))


def report(content: dict[str, Any]) -> str:
    """Returns what each task and length can tell, as Markdown."""
    lines = [
        "| steps | uniform | 1.35 times | difference | deviation | detectable | can tell |",
        "|---|---|---|---|---|---|---|",
    ]
    results = content["results"]
    for steps in dict.fromkeys(key.split("/")[0] for key in results):
        arms = arms_of([r for key, r in results.items() if key.startswith(f"{steps}/")])
        means = [arm_mean(arms.get(arm, [])) for arm in ARMS]
        if None not in means:
            lines.append(_row(steps, arms, *means))
    return "\n".join(lines)


def _row(steps: str, arms: dict[str, Any], *means: Mean) -> str:
    rise = welch(means[1], means[0])
    deviation = math.sqrt(
        statistics.fmean(statistics.variance(100 * r["top1"] for r in arms[arm]) for arm in ARMS)
    )
    tells = rise.value >= LEAST_RISE and deviation <= MOST_DEVIATION
    shown = (f"{mean.value:.2f} ({len(arms[arm])})" for arm, mean in zip(ARMS, means, strict=True))
    verdict = "yes" if tells else "no"
    cells = [steps, *shown, str(rise), f"{deviation:.2f}", f"{rise.detectable:.2f}", verdict]
    return f"| {' | '.join(cells)} |"


def _jobs(options: Any) -> list[Job]:
    jobs = []
    for steps in map(int, options.lengths.split(",")):
        lab = Lab.asked(options, train_steps=steps)
        # Seed by seed, so that a run that is not finished says something of both.
        jobs += [
            Job(f"{steps}/{arm}/{seed}", lab.train, {"arm": arm, "seed": seed})
            for seed in range(options.seeds)
            for arm in ARMS
        ]
    return jobs


if __name__ == "__main__":
    main()
