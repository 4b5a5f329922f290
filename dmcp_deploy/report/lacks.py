"""What stands in a report where a part is missing."""

from __future__ import annotations

from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import esc


def lack_notice(facts: RunFacts, part: str) -> str:
    """Returns what a run lacks of a part, and the command that makes it; "" if it has it all."""
    lack = facts.lacks.get(part)
    if lack is None:
        return ""
    return f'<p class="notice">{esc(lack.what)} To make it: <code>{esc(lack.command)}</code></p>'
