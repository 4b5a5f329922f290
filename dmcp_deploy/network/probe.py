"""A trial of the narrowest widths: finds groups that the forward pass does not let go."""

from __future__ import annotations

from torch import empty, no_grad
from torch._subclasses.fake_tensor import FakeTensorMode

from dmcp_deploy.network.graph import Group, Network
from dmcp_deploy.network.supernet import Supernet


def failing_groups(network: Network) -> dict[str, str]:
    """Returns group name -> why the network does not run with the group narrowed.

    All groups are narrowed at once on tensors without data; only if that fails is each tried
    alone, and if none fails alone, all of them are named.
    """
    together = _failure(network, network.prunable)
    if together is None:
        return {}
    alone = {g.name: reason for g in network.prunable if (reason := _failure(network, (g,)))}
    return alone or {group.name: together for group in network.prunable}


def _failure(network: Network, groups: tuple[Group, ...]) -> str | None:
    supernet = Supernet(network)
    training = network.model.training
    network.model.eval()
    keeps = {group.name: max(1, group.units // 2) * group.unit for group in groups}
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), no_grad():
            supernet(empty(2, *network.spec.input_shape), keeps)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as err:
        return f"the network does not run without it: {str(err).splitlines()[0][:120]}"
    finally:
        network.model.train(training)
    return None
