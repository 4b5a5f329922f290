"""What a search did on its way: expected cost, losses, and what every group was going to keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

from dmcp_deploy.report.charts import Labels, Series, line_chart
from dmcp_deploy.report.curves import curve, level, means_note, with_trend
from dmcp_deploy.report.facts import RunFacts, Search
from dmcp_deploy.report.markup import esc, lack_notice, scroll_box
from dmcp_deploy.report.scale import percent, spread
from dmcp_deploy.units import format_macs

_STEP = "step"
#: More columns than this do not fit a page.
_MOST_COLUMNS = 14


def search_part(facts: RunFacts, key: str) -> str:
    """Returns the search's curves and tables; `key` starts the ids of its charts."""
    charts = [*_expected_chart(facts, key), *_loss_chart(facts, key)]
    tables = _on_the_way(facts.search)
    if facts.search is not None and facts.search.probabilities:
        tables += _at_the_end(facts.search)
    elif facts.search is not None and not charts:
        tables = f"<p>The method {esc(facts.request.method)} trains nothing and has no curves.</p>"
    return f'{lack_notice(facts, "search")}<div class="pair">{"".join(charts)}</div>{tables}'


def _expected_chart(facts: RunFacts, key: str) -> list[str]:
    share = curve(facts.search_steps, "expected_share")
    if not share:
        return []
    reached = facts.search.expected_macs if facts.search else None
    end = f" It ended at {format_macs(reached)} multiply-adds." if reached else ""
    text = f"Expected cost as a share of the budget, of several the largest.{end}"
    labels = Labels(f"{key}-expected", "Expected cost", text, _STEP, "expected / budget")
    budget = level("the budget", 1.0, share, 1)
    return [line_chart(labels, [Series("expected", share)], [budget], percent)]


def _loss_chart(facts: RunFacts, key: str) -> list[str]:
    steps = facts.search_steps
    losses = [*with_trend("full network", curve(steps, "loss"))]
    if architecture := curve(steps, "arch_loss"):
        losses += with_trend("architecture", architecture, 1)
    if not losses[0].points:
        return []
    gated = ", and of the network gated by the probabilities" if architecture else ""
    text = f"Loss of the full network{gated}.{means_note(len(steps))}"
    labels = Labels(f"{key}-search-loss", "Loss in the search", text, _STEP, "loss")
    return [line_chart(labels, losses)]


def _on_the_way(search: Search | None) -> str:
    """Returns the share of its channels that every group was expected to keep, step by step."""
    if search is None or not search.kept_at:
        return ""
    chosen = spread(range(len(search.kept_at)), _MOST_COLUMNS)
    head = [str(search.kept_at[place]) for place in chosen]
    rows = [(name, [shares[place] for place in chosen]) for name, shares in search.kept.items()]
    return _heats(
        "Channels expected to be kept, through the search",
        "The share of its channels that every group was expected to keep, by step.",
        head,
        rows,
    )


def _at_the_end(search: Search) -> str:
    """Returns the marginal probabilities at the end of the search."""
    rows = [list(accumulate(row, mul)) for row in search.probabilities]
    return _heats(
        "Probabilities at the end of the search",
        "The probability to keep a group's channels up to each of its steps; the channels before"
        " step 1 are always kept.",
        [str(number) for number in range(1, max(map(len, rows)) + 1)],
        list(zip(search.groups, rows, strict=True)),
    )


def _heats(
    title: str, note: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]
) -> str:
    """Returns shares in [0, 1], a row for each group, as a table with shades."""
    columns = "".join(f'<th scope="col">{esc(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row">{esc(name)}</th>{"".join(map(_heat, row))}'
        f"{'<td></td>' * (len(head) - len(row))}</tr>"
        for name, row in rows
    )
    table = (
        f'<table class="heats"><thead><tr><th scope="col">group</th>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    return f"<h4>{esc(title)}</h4><p>{esc(note)}</p>{scroll_box(title, table)}"


def _heat(m: float) -> str:
    # On darker shades the text takes another colour, for its contrast in either theme.
    shade = "high" if m > 0.8 else "mid" if m > 0.6 else ""
    return f'<td style="--m:{m:.4f}" class="heat {shade}">{m:.2f}</td>'
