"""What `latency_worth.py` says of its arms, computed from the rows of its results alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from analysis import arm_mean, mean_of, welch

Row = dict[str, Any]
#: The arm that others are compared with, and the supernet that compares them by their losses.
BASE, JUDGE = "dmcp, latency", "first"


def report(content: dict[str, Any]) -> str:
    """Returns the results as Markdown: how long arms take and what they are worth, and searches.

    Efficiency is the share of the multiply-adds that is kept over the share of the time. Losses
    are compared seed by seed, for one supernet judges all arms of a seed; accuracies by Welch's
    interval, with the seed, which is that of searches and supernet, as the unit.
    """
    target, rows = content["target"], content["rows"]
    arms = {row["arm"]: [one for one in rows if one["arm"] == row["arm"]] for row in rows}
    budget = f"{content['options']['latency']} of {target['full_ms']:.3f} ms"
    return "\n".join(
        [
            f"{target['network']}, {target['ran_by']}, {target['device']}; budget: {budget}",
            "",
            *_table(
                "arm | MACs kept | predicted, of the full network's time | measured [95%]"
                " | of the budget | efficiency | plans measured",
                (_time_cells(arm, own, content) for arm, own in arms.items()),
            ),
            "",
            *_table(
                "arm | loss on supernets: of the first stage | of the search under time | of that"
                f" under FLOPs | first stage, minus {BASE} | top-1 | minus {BASE}",
                (_worth_cells(arm, arms) for arm in arms),
            ),
            "",
            *_table(
                "seed | search | budget | expected share of it",
                (cells for search in content["searches"] for cells in _search_cells(search)),
            ),
        ]
    )


def _table(head: str, rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {head} |", "|---" * len(head.split(" | ")) + "|", *cells]


def _time_cells(arm: str, rows: Sequence[Row], content: Row) -> list[str]:
    """Returns what an arm's plans keep and take, means over the searches."""
    full_ms, seen = content["target"]["full_ms"], [row for row in rows if "measured_ms" in row]
    kept = _mean(row["macs"] / row["full_macs"] for row in rows)
    cells = [arm, f"{kept:.1%}", f"{_mean(row['predicted_ms'] for row in rows) / full_ms:.1%}"]
    if len(seen) < len(rows):
        return [*cells, "not yet", "", "", ""]
    ms = _mean(row["measured_ms"] for row in seen)
    low, high = (_mean(row["interval_ms"][end] for row in seen) / full_ms for end in (0, 1))
    interval = f"{ms / full_ms:.1%} [{low:.1%}, {high:.1%}]"
    efficiency = _mean(r["macs"] / r["full_macs"] / (r["measured_ms"] / full_ms) for r in seen)
    tried = ", ".join(str(row["rounds"]) for row in seen)
    return [*cells, interval, f"{ms / content['limit_ms']:.3f}", f"{efficiency:.2f}", tried]


def _worth_cells(arm: str, arms: dict[str, list[Row]]) -> list[str]:
    """Returns an arm's losses and accuracies beside the base's."""
    rows = arms[arm]
    losses = [row["losses"] for row in rows if "losses" in row]
    names = (JUDGE, "latency", "flops")
    cells = [f"{_mean(one[name] for one in losses):.4f}" if losses else "" for name in names]
    top1 = [100 * value for row in rows for value in row.get("top1", [])]
    scatter = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
    shown = f"{_mean(top1):.2f}{scatter} ({len(top1)})" if top1 else ""
    if arm == BASE or BASE not in arms:
        return [arm, *cells, "", shown, ""]
    return [arm, *cells, _loss_above(rows, arms[BASE]), shown, _points_above(rows, arms[BASE])]


def _loss_above(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Returns by how much losses are above the base's, with its interval, paired by seeds."""
    mine, theirs = (
        {row["search"]: row["losses"][JUDGE] for row in some if "losses" in row}
        for some in (rows, base)
    )
    pairs = [mine[seed] - theirs[seed] for seed in mine.keys() & theirs.keys()]
    if len(pairs) < 2:
        return "too few"
    mean = mean_of(pairs)
    low, high = mean.value - mean.half, mean.value + mean.half
    return f"{mean.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _points_above(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Returns by how many points accuracies are above the base's, Welch's interval."""
    mine, theirs = (arm_mean([*_networks(some)]) for some in (rows, base))
    return "too few" if mine is None or theirs is None else str(welch(mine, theirs))


def _networks(rows: Sequence[Row]) -> Iterable[Row]:
    """Yields the trained networks as the analysis reads them."""
    for row in rows:
        for repeat, top1 in enumerate(row.get("top1", [])):
            yield {"search": row["search"], "seed": repeat, "top1": top1}


def _search_cells(search: Row) -> Iterable[list[str]]:
    for kind in ("latency", "flops"):
        found = search[kind]
        for one in [found] if isinstance(found, dict) else found:
            budget = f"{one['budget'] / 1e6:.2f}M multiply-adds" if "budget" in one else "in time"
            yield [str(search["seed"]), kind, budget, f"{one['expected_share']:.3f}"]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
