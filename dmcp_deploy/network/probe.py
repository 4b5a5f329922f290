"""A trial of narrow widths: finds groups that the forward pass does not let go."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from dmcp_deploy.network.graph import Group, Network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.network.trace import MISFITS, describe, evaluating, try_out

Groups = tuple[Group, ...]


def failing_groups(network: Network) -> dict[str, str]:
    """Returns group name -> why the network does not run with the group narrowed.

    All groups are narrowed at once, each to a width of its own, so that a tie that the tables
    have missed shows. Where that fails, halves of the groups are tried, down to single ones;
    all groups that are not named run narrowed together.
    """
    widths = {group.name: _trial_width(i, group) for i, group in enumerate(network.prunable)}
    failures: dict[str, str] = {}
    with evaluating(network.model):
        _search(network, widths, network.prunable, (), failures)
    return failures


def _search(
    network: Network, widths: dict[str, int], groups: Groups, good: Groups, failures: dict[str, str]
) -> Groups:
    """Returns `good` with those of `groups` that can be narrowed beside them."""
    error = _failure(network, {group.name: widths[group.name] for group in good + groups})
    if error is None or not groups:
        return good + groups
    if len(groups) == 1:
        failures[groups[0].name] = error
        return good
    half = len(groups) // 2
    good = _search(network, widths, groups[:half], good, failures)
    return _search(network, widths, groups[half:], good, failures)


def _trial_width(place: int, group: Group) -> int:
    """Returns about half the group's channels: an odd number of units, one that varies."""
    units = (group.units // 2 + 2 * (place % max(1, group.units // 4))) | 1
    return min(units, group.units - 1) * group.unit


def _failure(network: Network, widths: dict[str, int]) -> str | None:
    whole = next(n for n in network.graph.graph.nodes if n.op == "output").meta["shape"]
    shapes: list[object] = []

    def run(model: nn.Module, images: Tensor) -> None:
        logits = Supernet(replace(network, model=model))(images, widths)
        shapes.append(tuple(logits.shape) if isinstance(logits, Tensor) else whole)

    try:
        try_out(network.model, run, network.spec.input_shape)
    except MISFITS as err:
        return f"the network does not run without it: {describe(err)}"
    return None if shapes[-1] == whole else "the network's output changes its shape without it"
