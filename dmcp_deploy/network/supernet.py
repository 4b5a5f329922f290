"""One network at any widths: shared weights, sliced for every forward pass."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.narrow_run import NarrowRun
from dmcp_deploy.network.selection import Borrowed, Selection
from dmcp_deploy.plan import Keep


class Supernet(nn.Module):
    """Runs a network at any widths on its own, shared weights.

    Layers are really sliced, so that time falls with the width. In training mode batch norms
    use the statistics of the batch and leave the running ones as they are: those belong to one
    width only, and are recomputed for a network that is to be evaluated.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.model = network.model
        self._run = NarrowRun(network)

    def forward(
        self,
        images: Tensor,
        keeps: Mapping[str, int | Keep] | None = None,
        gates: Tensor | None = None,
        borrowed: Borrowed | None = None,
    ) -> Tensor:
        """Returns the logits [N, classes] of images [N, C, H, W].

        Args:
            images: The batch.
            keeps: Group name -> channels kept from the front (or a Keep); None is all.
            gates: One factor per unit of the network, at least 0, shape [units]; None is no gates.
            borrowed: What lends the narrowed weights, for a pass whose gradients are to be
                handed back by it; None leaves them to autograd.
        """
        return self._run(images, Selection(self.network, keeps or {}), gates, borrowed)
