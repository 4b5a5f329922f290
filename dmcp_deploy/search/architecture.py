"""DMCP's architecture parameters: what they mean, and how they move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmcp_deploy.network.cost import Cost
from dmcp_deploy.search import markov
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.training.checkpoint import load_optimizer, optimizer_tensors
from dmcp_deploy.training.distributed import add_up, world_size
from dmcp_deploy.training.optimizer import set_lr

BAND = (0.95, 1.0)  # of the budget: where the expected MACs should lie
_HALVINGS = 60  # enough for any step whose loss is finite
_APPROACH = 0.25  # of its distance from the band's middle: the most E[MACs] may move in a step
_LEAST_MOVE = 0.01  # of the budget: a move that is always allowed


class Architecture:
    """The alphas of all groups, with the expected cost they imply and their optimiser."""

    def __init__(
        self,
        space: SearchSpace,
        cost: Cost,
        budget_macs: int,
        transition: str,
        device: torch.device,
    ) -> None:
        """Starts at alpha = 0 everywhere: at the full network for "exp" transitions."""
        self._cost, self._budget_macs, self._transition = cost, budget_macs, transition
        self._device = device
        # All this is small and asked for by the host, so it stays there: a step then waits for
        # the device once, for the gates' gradient.
        self._mask, self._unit_steps = space.mask, space.unit_steps
        self._minimum = torch.from_numpy(space.minimum).double()
        self._step = torch.from_numpy(space.step).double()
        self.alphas = nn.Parameter(torch.zeros(self._mask.shape, dtype=torch.float64))
        self._optimizer = torch.optim.SGD([self.alphas], lr=1.0, momentum=0.9)

    def probabilities(self) -> Tensor:
        """Returns the transition probabilities p_k, shape [groups, K]."""
        return markov.transition(self.alphas, self._mask, self._transition)

    def gates(self) -> Tensor:
        """Returns the probability that each unit is kept, shape [units]."""
        gates = markov.unit_gates(markov.marginal(self.probabilities()), self._unit_steps)
        return gates.to(self._device)

    def expected_units(self) -> Tensor:
        """Returns the expected units of every group, shape [groups]."""
        return self._moments()[0]

    def expected_macs(self) -> Tensor:
        """Returns the expected multiply-adds, a differentiable scalar."""
        return self._cost.expected_macs(*self._moments())

    def move(self, loss: Tensor, lr: float) -> float:
        """Moves the alphas against the gradient of a loss; returns E[MACs] / budget before.

        Momentum and a gradient that grows towards the budget make the expected MACs shoot far
        below it, from where the budget loss hardly pulls them back. So a step is halved until
        it changes them by at most a quarter of their distance from the band (or 1% of the
        budget, if that is more).
        """
        (gradient,) = torch.autograd.grad(loss, [self.alphas])
        if world_size() > 1:
            gradient = (add_up(gradient.to(self._device)) / world_size()).cpu()
        self.alphas.grad = gradient
        set_lr(self._optimizer, lr)
        with torch.no_grad():
            before, share = self.alphas.clone(), self._share()
            self._optimizer.step()
            markov.project(self.alphas, self._transition)
            self._shorten(before, share)
        return share

    def tensors(self) -> dict[str, Tensor]:
        """Returns alphas and momenta."""
        return {"alphas": self.alphas, **optimizer_tensors(self._optimizer, "alpha_optimizer")}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        load_optimizer(self._optimizer, tensors, "alpha_optimizer")
        with torch.no_grad():
            self.alphas.copy_(tensors["alphas"])

    def _moments(self) -> tuple[Tensor, Tensor]:
        marginal = markov.marginal(self.probabilities())
        return markov.width_moments(marginal, self._minimum, self._step)

    def _share(self) -> float:
        return float(self.expected_macs()) / self._budget_macs

    def _shorten(self, before: Tensor, share: float) -> None:
        allowed = max(_LEAST_MOVE, _APPROACH * abs(share - sum(BAND) / 2))
        for _ in range(_HALVINGS):
            if abs(self._share() - share) <= allowed:
                return
            self.alphas.copy_((before + self.alphas) / 2)
            self._optimizer.state[self.alphas]["momentum_buffer"].mul_(0.5)


def budget_loss(expected_macs: Tensor, budget_macs: int) -> Tensor:
    """Returns DMCP's log-l1 budget loss, relative to the budget.

    Zero where the expected MACs E lie in [0.95, 1) of the budget T; log(|E - T| / T) below that
    band, log(|E - 0.95 T| / T) at or above it. Relative to T, value and gradient are the same
    for a budget of 1M as of 4G; the band keeps the gradient bounded.
    """
    share = expected_macs / budget_macs
    if float(share.detach()) >= BAND[1]:
        return torch.log(share - BAND[0])
    if float(share.detach()) >= BAND[0]:
        return share * 0.0
    return torch.log(1.0 - share)
