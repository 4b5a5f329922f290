"""From a model to a network with channel groups that have been tried."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from dmcp_deploy.network.annotate import annotate_graph
from dmcp_deploy.network.coupling import couple_channels
from dmcp_deploy.network.first_layer import check_channels
from dmcp_deploy.network.graph import Network, assemble
from dmcp_deploy.network.misfit import misfit
from dmcp_deploy.network.probe import try_narrow
from dmcp_deploy.network.shape_pass import MISFITS, ShapePass
from dmcp_deploy.network.statistics import check_statistics
from dmcp_deploy.network.trace import evaluating, fetch, restored, trace_model
from dmcp_deploy.plan import NetworkSpec


def trace_network(model: nn.Module, spec: NetworkSpec) -> Network:
    """Returns a network with its channel groups, derived from its forward pass.

    The forward pass is run at the narrowest widths before the network is returned; groups at
    which it fails are kept whole, with the error as the reason.

    Args:
        model: Any convolutional network; it is not changed.
        spec: Its description; MACs are counted at its input shape.

    Raises:
        DmcpError: The forward pass cannot be traced, does not run on such an input, or looks at
            all images of a batch at once.
    """
    with evaluating(model), restored(model):
        trace = trace_model(model, spec.input_shape)
        check_channels(trace, spec)
        check_statistics(trace)
        known = {**trace.modules, **trace.constants}
        shape_pass = ShapePass(partial(fetch, model, known), spec.input_shape)
        try:
            annotate_graph(trace.graph, shape_pass)
        except MISFITS as err:
            raise misfit(model, spec.input_shape, err) from err
        refused: dict[str, str] = {}
        while True:
            couplings = couple_channels(model, trace, refused)
            network = assemble(spec, model, trace, couplings)
            tried = try_narrow(network, shape_pass)
            if not tried.failures:
                kept = {n: r for n, r in network.rewrites.items() if n in tried.changed}
                return replace(network, rewrites=kept)
            refused.update(tried.failures)
