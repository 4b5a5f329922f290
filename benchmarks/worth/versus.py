"""DMCP beside uniform widths and the plan of a blind search: D2, D3 and D4's small form.

Searches come first, then networks are trained: those of DMCP's plans, of uniform widths, of the
budget-only plan, and of uniform widths at 1.35 times the multiply-adds, which tell what points are
worth. Primary is DMCP minus uniform, by Welch, searches as a random effect.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from worth.analysis import arm_mean, arms_of, arms_table, welch
from worth.book import Book, Job, asked, parser
from worth.headroom import BEST
from worth.lab import Lab, Widths

#: How the arms are shown where networks are distilled on the full one's weights, as in the paper.
_STARRED = "*"


def run(
    name: str, doc: str, *, model: str = "small_mobilenet", distill: bool = False, **defaults: Any
) -> None:
    """Runs what is missing of an experiment and prints its table.

    Args:
        name: Of its files.
        doc: Its description.
        model: The full network.
        distill: Whether networks are trained by in-place distillation, all of one number from the
            same full network.
        **defaults: Of its options.
    """
    made = parser(name, doc, **defaults)
    made.add_argument(
        "--best-found",
        type=Path,
        help="Results of d0_headroom.py on the same searches: its best plans are trained too.",
    )
    options = asked(made)
    book = Book(options)
    if not options.report:
        lab = Lab.asked(options, model=model)
        seeds = range(options.searches)
        book.do([Job(f"search/{seed}", lab.search, {"seed": seed}) for seed in seeds])
        book.do(_trainings(options, book, lab, distill))
    print(report(book.content, _STARRED if distill else ""))


def report(content: dict[str, Any], star: str = "") -> str:
    """Returns the arms beside one another, and the primary difference in a sentence."""
    results = content["results"]
    searches = [r for key, r in results.items() if key.startswith("search/")]
    arms = arms_of([r for r in results.values() if "arm" in r])
    shown = {f"{arm}{star}": records for arm, records in arms.items()}
    lines = [*arms_table(shown, f"uniform{star}", f"uniform, larger{star}"), ""]
    ends = ", ".join(f"{r['expected_share']:.2f}" for r in searches)
    lines.append(f"Expected multiply-adds of the searches at their end, of the budget: {ends}.")
    for name, right in (("Primary", "uniform"), ("Besides", "budget-only")):
        means = [arm_mean(arms.get(arm, [])) for arm in ("dmcp", right)]
        if None not in means:
            difference = welch(*means)
            lines.append(
                f"{name}: dmcp{star} minus {right}{star} {difference} points; a true difference"
                f" of {difference.detectable:.2f} would have been told in 80 of 100 such runs."
            )
    # Not what this call took: most of it may have been done before one that was stopped.
    took = (r.get("search_s", 0.0) + r.get("train_s", 0.0) for r in results.values())
    minutes = statistics.fsum(took) / 60
    return "\n".join([*lines, f"{minutes:.0f} minutes of {content['options']['device']}."])


def _trainings(options: argparse.Namespace, book: Book, lab: Lab, distill: bool) -> list[Job]:
    """Returns all networks to train, number by number, so that an unfinished run tells of all."""
    best = _best_found(options)
    jobs = []
    for seed in range(options.seeds):
        search = seed % options.searches
        found = book.results[f"search/{search}"]
        arms = {
            "dmcp": {"plan": found["widths"], "search": search},
            "uniform": {},
            "budget-only": {},
        }
        if best:
            arms[BEST] = {"plan": best[search], "search": search}
        if seed < max(2, options.seeds // 2):
            arms["uniform, larger"] = {}
        jobs += [
            Job(
                f"{arm}/{seed}",
                lab.train,
                {"arm": arm, "seed": seed, "distill": distill, **given},
            )
            for arm, given in arms.items()
        ]
    return jobs


def _best_found(options: argparse.Namespace) -> dict[int, Widths]:
    """Returns search -> the best plan that D0 has found on its supernet."""
    if options.best_found is None:
        return {}
    rows = json.loads(options.best_found.read_text())["results"].values()
    return {
        row["seed"]: {group["name"]: group["widths"][BEST] for group in row["groups"]}
        for row in rows
    }
