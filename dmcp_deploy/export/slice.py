"""From a network and a plan to a dense network, proven to compute the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmcp_deploy.export.verify import Parity, compare_outputs, require_parity
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.network.trace import evaluating
from dmcp_deploy.plan import ChannelPlan

#: Of the largest output, in FP32. Both add up the same products, in another order at most where
#: memory layouts choose other kernels: in networks of a hundred layers that makes some 1e-6.
TOLERANCE = 1e-5


def slice_proven(network: Network, plan: ChannelPlan, images: Tensor) -> tuple[nn.Module, Parity]:
    """Returns the dense network of a plan, and how far it is from the supernet at its widths.

    Args:
        network: The full network with its weights.
        plan: What its groups keep.
        images: [N, C, H, W], where the network is: on them the two are compared, in
            evaluation mode and FP32.

    Raises:
        DmcpError: The plan is not one of this network, or the outputs differ by more than 1e-5
            of their largest magnitude.
    """
    plan.check_fits(network.sizes(), network.spec.model)
    dense = slice_network(network, plan.groups)
    dense.eval()
    with evaluating(network.model), torch.no_grad():
        reference = Supernet(network)(images, plan.groups).float().cpu().numpy()
        outputs = dense(images).float().cpu().numpy()
    parity = compare_outputs(reference, outputs)
    require_parity(parity, TOLERANCE, "the supernet at the plan's widths and the sliced network")
    return dense, parity
