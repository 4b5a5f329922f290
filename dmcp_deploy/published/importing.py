"""From a published file to the channel plan of a network known by name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import ChannelPlan, Keep, NetworkSpec
from dmcp_deploy.published.formats import read_published
from dmcp_deploy.published.match import Match, group_widths, match_layers
from dmcp_deploy.published.plan_text import describe_network
from dmcp_deploy.rundir.directory import RunDir


def import_plan(path: Path, network: NetworkSpec, form: str | None = None) -> ChannelPlan:
    """Returns the plan of a network that a published file describes.

    Groups keep their leading channels, as many as the file says; multiply-adds and parameters
    are counted anew.

    Args:
        path: A .npy dictionary of the DMCP authors, a plan of MMRazor, or timm's text of shapes.
        network: The full network.
        form: The file's format, "npy", "mmrazor" or "timm"; None tells it by the content.

    Raises:
        DmcpError: The file is damaged or of no known format, the model is unknown, or the two
            do not fit.
    """
    published = read_published(path, form)
    net = build_network(network)
    try:
        matches = match_layers(published, net)
        _check_sizes(matches, net)
        widths = group_widths(matches, net, published.complete)
    except DmcpError as err:
        raise DmcpError(
            f"The plan in {path} does not fit {network.model} x{network.width_mult:g}: {err}"
        ) from err
    return _plan(net, widths, published.form)


def check_place(out: Path, network: NetworkSpec) -> None:
    """Checks that a plan is of the same network as the run in whose directory it shall lie.

    Raises:
        DmcpError: It is not, or the run.json there is damaged.
    """
    run = RunDir(out.parent)
    if not run.is_begun():
        return
    theirs = run.request().network
    if theirs != network:
        raise DmcpError(
            f"The run in {out.parent} is of {describe_network(theirs)}, and the plan would be of"
            f" {describe_network(network)}."
        )


def _check_sizes(matches: list[Match], net: Network) -> None:
    """Checks the sizes that a file states of the full network.

    MMRazor has turned the authors' plans of a wider network into its own format, and states the
    sizes of the network at width 1 there.
    """
    odd = [(item, layer) for item, layer in matches if item.size not in (None, layer.out_channels)]
    if not odd:
        return
    item, layer = odd[0]
    if net.spec.width_mult != 1.0:
        usual = build_network(replace(net.spec, width_mult=1.0)).layers
        if all(item.size == usual[layer.name].out_channels for item, layer in odd):
            return
    raise DmcpError(
        f"{item.name} of the full network it describes has {item.size} channels, and {layer.name}"
        f" has {layer.out_channels} (a wider network takes its --width-mult)."
    )


def _plan(net: Network, widths: dict[str, int], form: str) -> ChannelPlan:
    cost = NetworkCost(net)
    groups = {g.name: Keep(g.size, widths.get(g.name, g.size)) for g in net.groups}
    return ChannelPlan(
        network=net.spec,
        groups=groups,
        macs=cost.macs_at(widths),
        full_macs=cost.full_macs,
        params=cost.params(widths),
        budget_macs=None,
        method=f"imported:{form}",
        align=math.gcd(*(keep.width for keep in groups.values())),
        seed=0,
    )
