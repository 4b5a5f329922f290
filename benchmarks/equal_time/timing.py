"""Plans of all arms that take the same measured time, by the product's certificates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from equal_time.arms import Searched, Setup, decoded

from dmcp_deploy.bench.certificate import Certificate, Round
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.bench.tables.template import FILE as TEMPLATE
from dmcp_deploy.bench.tables.template import FULL, narrow_onnx, open_template
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.certificates import measure
from dmcp_deploy.run.template import make_template
from dmcp_deploy.rundir.files import ORIGINAL, PRUNED

#: Of the budget in time: what plans that are decoded again aim at, and between what shares a plan
#: takes the same time.
AIM, LEAST, MOST = 0.995, 0.98, 1.01


def certify(setup: Setup, arm: str, found: Searched, plan: ChannelPlan, path: Path) -> Certificate:
    """Returns the certificate of an arm's plan, or of another one that takes the budget's time.

    Args:
        setup: The target and its budget.
        arm: The arm.
        found: What its searches have left.
        plan: Its plan by the latency table alone.
        path: Where the certificate is kept, after each measurement; one that is there goes on.
    """

    def take(plan: ChannelPlan) -> BenchRecord:
        return _measured(setup, plan, path.parent)

    def again(factor: float) -> ChannelPlan | None:
        try:
            return decoded(setup, arm, found, factor, AIM)
        except DmcpError:  # even the narrowest takes longer
            return None

    certificate = Certificate.load(path) if path.exists() else _begun(setup, plan)
    return equalled(certificate, path, take, again, setup.options.rounds)


def equalled(
    certificate: Certificate,
    path: Path,
    take: Callable[[ChannelPlan], BenchRecord],
    again: Callable[[float], ChannelPlan | None],
    rounds: int,
) -> Certificate:
    """Returns a certificate whose plan takes the budget's time, as near as plans were found.

    A plan that takes more than 101% of the budget, or less than 98%, is decoded again by the
    latency table times what was seen.

    Args:
        certificate: As far as it has come.
        path: Where it is kept.
        take: Measures a plan's network beside the full one.
        again: Returns the plan by a table times a factor; None where none is in time.
        rounds: Plans at most.
    """
    while True:
        if certificate.rounds[-1].record is None:
            certificate = certificate.with_record(take(certificate.rounds[-1].plan))
            certificate.save(path)
        seen = certificate.seen[-1]
        assert seen is not None
        if LEAST <= seen.ms / certificate.limit_ms <= MOST or len(certificate.rounds) >= rounds:
            return certificate
        factor = seen.ms / certificate.rounds[-1].table_ms
        plan = again(factor)
        if plan is None or any(one.plan.groups == plan.groups for one in certificate.rounds):
            return certificate
        certificate = certificate.with_round(Round(plan, plan.limits[0].value / factor, factor))


def _begun(setup: Setup, plan: ChannelPlan) -> Certificate:
    target = setup.target
    return Certificate(
        asked=setup.options.latency,
        limit_ms=setup.limit_ms,
        full_ms=target.model.full_ms,
        setting=target.setting,
        device=target.device,
        ran_by=target.ran_by,
        table_digest=target.digest,
        rounds=(Round(plan, plan.limits[0].value),),
    )


def _measured(setup: Setup, plan: ChannelPlan, folder: Path) -> BenchRecord:
    """Returns the full network and a plan's, measured in turn as the product certifies."""
    if not (folder / TEMPLATE).is_file():
        make_template(setup.network, folder)
    files = {ORIGINAL: folder / FULL, PRUNED: folder / "pruned.onnx"}
    narrow_onnx(open_template(folder), plan.widths(), files[PRUNED])
    return measure(files, setup.target.setting, Compute(certify_s=setup.options.seconds))
