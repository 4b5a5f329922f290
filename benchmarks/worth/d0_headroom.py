"""D0: how much better can a plan be than the one that DMCP finds, on the same supernet?

    python benchmarks/worth/d0_headroom.py --task fashion     # about 20 minutes on 2 cores
    python benchmarks/worth/d0_headroom.py --task duo48 --search-steps 2000    # about 1 hour
    python benchmarks/worth/d0_headroom.py --task duo48 --report

Three searches at 10% of the multiply-adds, widths of any number. On the supernet that each leaves,
the loss of DMCP's plan, of uniform widths, of the plan of a search that sees no image, of
AutoSlim's greedy one, and of the best of an evolution of 300 plans that starts from these and from
random ones: batch norms recalibrated, and logits rescaled by the factor that suits each plan best,
which a network trained by itself finds too. All are within 0.5% of the budget; uniform widths at
1.35 times of it tell what losses are worth in multiply-adds, along the line between the two in
ln(MACs). Plans are chosen by 5,000 test images and reported by 10,000 others (Fashion-MNIST:
5,000). Rules: best found less than 0.01 below uniform, there is no headroom in this network; DMCP
less than half of the way from uniform to the best, the search is to be mended. They were fixed
before any run, for the losses as they are, which the report shows too.
--recipe '{"transition": "sigmoid"}' asks the same of another search (D5).
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from worth.analysis import mean_of
from worth.book import Book, Job, asked, parser
from worth.headroom import BEST, headroom
from worth.lab import Lab

LEAST_HEADROOM, LEAST_WAY = 0.01, 0.5
_LARGER = "uniform, larger"
PLANS = ("uniform", "dmcp", "budget-only", "autoslim", BEST)


def main() -> None:
    """Judges what is missing and prints the table."""
    made = parser("d0_headroom", __doc__, task="fashion", search_steps=1000)
    made.add_argument(
        "--images", type=int, default=5000, help="To choose by; twice as many to report."
    )
    made.add_argument("--population", type=int, default=30, help="Plans in a generation.")
    made.add_argument("--generations", type=int, default=10)
    made.add_argument("--held-out", type=int, default=512, help="Images of greedy slimming.")
    options = asked(made, searches=1, images=100, population=4, generations=2, held_out=32)
    book = Book(options)
    if not options.report:
        book.do(_jobs(options))
    print(report(book.content))


def report(content: dict[str, Any]) -> str:
    """Returns losses, verdict, and the worth of groups, as Markdown."""
    rows = list(content["results"].values())
    lines = [
        f"| search | E[MACs]/budget | {' | '.join(PLANS)} | random: best of, mean |",
        "|---|---|" + "---|" * (len(PLANS) + 1),
    ]
    for row in rows:
        losses = [f"{row['plans'][plan]['scaled_loss']:.4f}" for plan in PLANS]
        drawn = f"{min(row['random']):.4f} of {len(row['random'])}"
        lines.append(
            f"| {row['seed']} | {row['expected_share']:.3f} | {' | '.join(losses)}"
            f" | {drawn}, {statistics.fmean(row['random']):.4f} |"
        )
    return "\n".join([*lines, "", *_verdict(rows), "", *_groups(rows)])


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what plans differ from uniform ones by, and what the rules make of it."""
    if not rows:
        return ["Nothing is judged yet."]
    rows = [{**row, "plans": {**row["plans"], _LARGER: row["larger"]}} for row in rows]
    heads = ("less uniform", "loss, logits rescaled", "as MACs", "on the images chosen by")
    heads += ("loss as it is", "as MACs", "top-1, points")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [_row(rows, plan) for plan in (_LARGER, *PLANS[1:])]
    less = {plan: statistics.fmean(_less(rows, plan, "scaled_loss")) for plan in PLANS}
    if less[BEST] > -LEAST_HEADROOM:
        return [*lines, "", "No headroom in this network: change it."]
    way = less["dmcp"] / less[BEST]
    verdict = "is to be mended" if way < LEAST_WAY else "finds most of it"
    told = f"dmcp: {way:.0%} of the way from uniform to the best found; it {verdict}."
    return [*lines, "", told]


def _row(rows: list[dict[str, Any]], plan: str) -> str:
    """Returns what a plan differs from uniform widths by, over all searches."""
    cells = [plan]
    for value in ("scaled_loss", "loss"):
        less = _less(rows, plan, value)
        larger = statistics.fmean(_less(rows, _LARGER, value))
        half = f" ± {mean_of(less).half:.4f}" if len(rows) > 1 else ""
        as_macs = _ratio(rows) ** (statistics.fmean(less) / larger) if larger < 0 else None
        cells += [
            f"{statistics.fmean(less):+.4f}{half}",
            "cannot be told" if as_macs is None else f"{as_macs:.2f}",
        ]
        if value == "scaled_loss":
            cells.append(f"{statistics.fmean(_less(rows, plan, 'seen_loss')):+.4f}")
    cells.append(f"{100 * statistics.fmean(_less(rows, plan, 'top1')):+.2f}")
    return f"| {' | '.join(cells)} |"


def _ratio(rows: list[dict[str, Any]]) -> float:
    """Returns how many times the multiply-adds of uniform widths the larger ones have."""
    return statistics.fmean(r["larger"]["macs"] / r["plans"]["uniform"]["macs"] for r in rows)


def _less(rows: list[dict[str, Any]], plan: str, value: str) -> list[float]:
    return [r["plans"][plan][value] - r["plans"]["uniform"][value] for r in rows]


def _groups(rows: list[dict[str, Any]]) -> list[str]:
    """Returns for each search the widths, and what a percent of the budget saves in each group."""
    lines = []
    for row in rows:
        lines += [
            f"Search {row['seed']}: widths, and the loss that 1% of the budget saves, x 1000",
            "",
            f"| group | {' | '.join(PLANS)} | gated | sliced: uniform | dmcp | best found |",
            "|---|" + "---|" * (len(PLANS) + 4),
        ]
        for group in row["groups"]:
            widths = [str(group["widths"][plan]) for plan in PLANS]
            worth = [group["gated"], *(group["sliced"][p] for p in ("uniform", "dmcp", BEST))]
            shown = ["at an end" if w is None else f"{1e3 * w:.1f}" for w in worth]
            lines.append(f"| {group['name']} | {' | '.join([*widths, *shown])} |")
        lines.append("")
    return lines


def _jobs(options: Any) -> list[Job]:
    lab = Lab.asked(options)
    settings = {k: vars(options)[k] for k in ("images", "population", "generations", "held_out")}
    return [
        Job(f"{options.task}/{seed}", headroom, {"lab": lab, "seed": seed, **settings})
        for seed in range(options.searches)
    ]


if __name__ == "__main__":
    main()
