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
    have missed shows; then once more by a channel less, so that both odd and even widths are
    tried. Where that fails, halves of the groups are tried, down to single ones; all groups that
    are not named run narrowed together.
    """
    failures: dict[str, str] = {}
    with evaluating(network.model):
        for shift in (0, 1):
            groups = network.prunable
            widths = {g.name: _trial_width(i + shift, g) for i, g in enumerate(groups)}
            left = tuple(group for group in groups if group.name not in failures)
            _search(network, widths, left, (), failures)
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
    """Returns a width from half the group's channels up, another one for each place."""
    return (group.units - 1 - place % max(1, group.units // 2)) * group.unit


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
