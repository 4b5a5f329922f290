"""What D4's raw records say, budget by budget, and its searches on their own supernets.

Primary: DMCP minus uniform at the first budget, searches as a random effect.
"""

from __future__ import annotations

from typing import Any

from worth.analysis import arms_of, arms_table

#: In this order behind "uniform".
ARMS = ("dmcp", "dmcp sigmoid", "budget-only", "uniform, last kept", "uniform, larger")


def report(content: dict[str, Any]) -> str:
    """Returns the results as Markdown, computed from the raw records alone."""
    dense = [r for r in content["records"] if r["kind"] == "dense"]
    searches = [r for r in content["records"] if r["kind"] == "search"]
    lines = [f"{content.get('device')}, steps: {content.get('steps')}", ""]
    for budget in dict.fromkeys(r["budget"] for r in dense):
        arms = arms_of([r for r in dense if r["budget"] == budget])
        shown = {arm: arms[arm] for arm in ("uniform", *ARMS) if arm in arms}
        lines += [f"budget {budget:.0%}", "", *arms_table(shown), ""]
    lines += search_table(searches)
    lines += [f"- left out: {r['what']}: {r['why']}" for r in content["records"] if "why" in r]
    return "\n".join(lines)


def search_table(searches: list[dict[str, Any]]) -> list[str]:
    """Returns what plans lose on the searched supernets, as Markdown."""
    if not searches:
        return []
    names = list(dict.fromkeys(name for r in searches for name in r["losses"]))
    lines = [
        "Loss on the searched supernet, batch norms recalibrated:",
        "",
        f"| budget | search | E[MACs]/budget | {' | '.join(names)} | DMCP, uniform beat |",
        "|---|---|---|" + "---|" * (len(names) + 1),
    ]
    for record in searches:
        cells = [f"{record['losses'][n]:.4f}" if n in record["losses"] else "" for n in names]
        random = record["random_losses"]
        beaten = [sum(record["losses"][n] < loss for loss in random) for n in ("dmcp", "uniform")]
        name = f"{record['seed']} {record['transition']}"
        head = f"| {record['budget']:.0%} | {name} | {record['expected_share']:.3f}"
        lines.append(f"{head} | {' | '.join(cells)} | {beaten[0]}, {beaten[1]} of {len(random)} |")
    return [*lines, ""]
