"""From a model to a network with channel groups that have been tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import nn

from dmcp_deploy.network.annotate import annotate_graph
from dmcp_deploy.network.coupling import couple_channels
from dmcp_deploy.network.first_layer import check_channels
from dmcp_deploy.network.graph import Layer, Network, assemble
from dmcp_deploy.network.misfit import misfit
from dmcp_deploy.network.probe import try_narrow
from dmcp_deploy.network.shape_pass import MISFITS, ShapePass
from dmcp_deploy.network.statistics import check_statistics
from dmcp_deploy.network.trace import Trace, evaluating, fetch, restored, trace_model
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
            network = _freest(spec, model, trace, refused)
            tried = try_narrow(network, shape_pass)
            if not tried.failures:
                kept = {n: r for n, r in network.rewrites.items() if n in tried.changed}
                return replace(network, rewrites=kept)
            refused.update(tried.failures)


def _freest(
    spec: NetworkSpec, model: nn.Module, trace: Trace, refused: Mapping[str, str]
) -> Network:
    """Returns the network in which grouped convolutions let the more channels go.

    They lose whole convolution groups, or where that is impossible channels of every group.
    """
    network = assemble(spec, model, trace, couple_channels(model, trace, refused))
    held = [name for name, layer in network.layers.items() if _is_held(trace.modules[name], layer)]
    if not held:
        return network
    other = assemble(spec, model, trace, couple_channels(model, trace, refused, held))
    return max(network, other, key=lambda candidate: candidate.free_channels)


def _is_held(module: nn.Module, layer: Layer) -> bool:
    """Returns whether a grouped convolution that is not depthwise lets no channel go."""
    grouped = layer.grouped and layer.out_channels > getattr(module, "groups", 1)
    return grouped and layer.outputs is not None and bool((layer.outputs < 0).all())
