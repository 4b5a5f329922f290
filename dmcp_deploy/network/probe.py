"""A trial of narrow widths: finds groups that the forward pass does not let go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dmcp_deploy.network.graph import Group, Network
from dmcp_deploy.network.misfit import describe
from dmcp_deploy.network.narrow_run import NarrowRun
from dmcp_deploy.network.selection import Selection
from dmcp_deploy.network.shape_pass import MISFITS, Fetch, ShapePass, call_for_shape

Groups = tuple[Group, ...]


@dataclass
class Tried:
    """What came of running a network narrowed.

    Attributes:
        failures: Group name -> why the network does not run with the group narrowed.
        changed: The operations whose arguments the forward pass does not write as the widths want.
    """

    failures: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)


def try_narrow(network: Network, shape_pass: ShapePass) -> Tried:
    """Returns what comes of running a network narrowed.

    All groups are narrowed at once, each to a width of its own, so that a tie that the tables
    have missed shows; then once more by a channel less, so that both odd and even widths are
    tried. Where that fails, halves of the groups are tried, down to single ones; all groups that
    are not named run narrowed together.

    Args:
        network: The network, in evaluation mode.
        shape_pass: Runs its model.
    """
    tried = Tried()
    for shift in (0, 1):
        groups = network.prunable
        widths = {g.name: _trial_width(i + shift, g) for i, g in enumerate(groups)}
        trial = _Trial(network, shape_pass, widths, tried.changed)
        left = tuple(group for group in groups if group.name not in tried.failures)
        trial.search(left, (), tried.failures)
    return tried


def _trial_width(place: int, group: Group) -> int:
    """Returns a width from half the group's channels up, another one for each place."""
    return (group.units - 1 - place % max(1, group.units // 2)) * group.unit


class _Trial:
    """Passes of a network at one width for each group, or the full one."""

    def __init__(
        self,
        network: Network,
        shape_pass: ShapePass,
        widths: Mapping[str, int],
        changed: set[str],
    ) -> None:
        self._network, self._shape_pass, self._widths = network, shape_pass, widths
        self._changed = changed
        output = next(node for node in network.graph.nodes if node.op == "output")
        self._full_shape = output.meta["shape"]

    def search(self, groups: Groups, good: Groups, failures: dict[str, str]) -> Groups:
        """Returns `good` with those of `groups` that can be narrowed beside them."""
        error = self._error(good + groups)
        if error is None or not groups:
            return good + groups
        if len(groups) == 1:
            failures[groups[0].name] = error
            return good
        half = len(groups) // 2
        good = self.search(groups[:half], good, failures)
        return self.search(groups[half:], good, failures)

    def _error(self, narrowed: Groups) -> str | None:
        shapes: list[object] = []

        def forward(fetch: Fetch, images: Tensor) -> None:
            keeps = {group.name: self._widths[group.name] for group in narrowed}
            run = NarrowRun(self._network, fetch, call_for_shape)
            selection = Selection(self._network, keeps)
            logits = run(images, selection, changed=self._changed)
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else self._full_shape
            shapes.append(shape)

        try:
            self._shape_pass.run(forward)
        except MISFITS as err:
            return f"the network does not run without it: {describe(err)}"
        if shapes[-1] != self._full_shape:
            return "the network's output changes its shape without it"
        return None
