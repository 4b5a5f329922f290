"""A budget in time on the page: asked, predicted, measured, round by round."""

from __future__ import annotations

from dmcp_deploy.bench.certificate import Certificate, certificate_text
from dmcp_deploy.report.facts import RunFacts
from dmcp_deploy.report.markup import Table, esc, table_html
from dmcp_deploy.units import format_ms


def certificate_part(facts: RunFacts) -> str:
    """Returns what certifies the budget in time of a run, which has a certificate."""
    certificate = facts.certificate
    assert certificate is not None
    note = ""
    if facts.plan is not None and facts.plan.groups != certificate.chosen.plan.groups:
        note = (
            '<p class="notice">The plan was replaced since; <code>certify</code> on this run'
            " measures it.</p>"
        )
    words = f"<p>{esc(certificate_text(certificate))}.</p>"
    return f"{words}{note}{table_html(certificate_table(certificate))}"


def certificate_table(certificate: Certificate) -> Table:
    """Returns the plans that were tried for a budget in time."""
    head = ("plan", "multiply-adds", "predicted", "correction", "measured", "95%", "verdict")
    rows = (_row(certificate, place) for place in range(len(certificate.rounds)))
    return Table("Latency budget", head, tuple(rows))


def _row(certificate: Certificate, place: int) -> tuple[str, ...]:
    item, seen = certificate.rounds[place], certificate.seen[place]
    kept = " (kept)" if place == certificate.place else ""
    return (
        f"{place + 1}{kept}",
        str(item.plan.macs),
        format_ms(item.predicted_ms),
        f"{item.factor:.3f}",
        "" if seen is None else format_ms(seen.ms),
        "" if seen is None else f"{format_ms(seen.low_ms)} to {format_ms(seen.high_ms)}",
        certificate.verdict_on(place),
    )
