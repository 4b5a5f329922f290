"""DMCP's architecture parameters: what they mean, and how they move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmcp_deploy.search import markov
from dmcp_deploy.search.budget_loss import BAND, largest_move
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.space import SearchSpace
from dmcp_deploy.training.distributed import add_up, world_size
from dmcp_deploy.training.task import load_optimizer, optimizer_tensors, set_lr

_HALVINGS = 60  # enough for any step whose loss is finite


class Architecture:
    """The alphas of all groups, with the expected cost they imply and their optimiser.

    Attributes:
        alphas: One parameter for each step of each group, float64 [groups, K], on the CPU.
    """

    def __init__(
        self,
        space: SearchSpace,
        limits: Limits,
        transition: str,
        device: torch.device,
    ) -> None:
        """Starts at alpha = 0: at the full network for "exp", at p = 0.5 for "sigmoid"."""
        self._limits, self._transition = limits, transition
        self._device = device
        # These tensors are small and Python reads them in every step, so they stay on the CPU: a
        # step then waits for the GPU only once, for the gates' gradient.
        self._mask, self._unit_steps = space.mask, space.unit_steps
        self._minimum = torch.from_numpy(space.minimum).double()
        self._step = torch.from_numpy(space.step).double()
        self.alphas = nn.Parameter(torch.zeros(self._mask.shape, dtype=torch.float64))
        self._optimizer = torch.optim.SGD([self.alphas], lr=1.0, momentum=0.9, nesterov=True)

    def probabilities(self) -> Tensor:
        """Returns the transition probabilities p_k, shape [groups, K]."""
        return markov.transition(self.alphas, self._mask, self._transition)

    def gates(self) -> Tensor:
        """Returns the probability that each unit is kept, shape [units]."""
        gates = markov.unit_gates(markov.marginal(self.probabilities()), self._unit_steps)
        return gates.to(self._device)

    def expected_units(self) -> Tensor:
        """Returns the expected units of every group, shape [groups]."""
        return markov.width_moments(self.width_probabilities(), self._minimum, self._step)[0]

    def width_probabilities(self) -> Tensor:
        """Returns the probability of each width of each group, shape [groups, K + 1]."""
        return markov.width_probabilities(markov.marginal(self.probabilities()))

    def expected_share(self) -> Tensor:
        """Returns the largest expected share of any budget, a differentiable scalar."""
        return self._limits.expected_share(self.width_probabilities())

    def move(self, loss: Tensor, lr: float, task: Tensor | None = None) -> float:
        """Moves the alphas against the gradient of losses; returns the expected share before.

        Outside the budget's band a task loss has its say only on how the groups share what they
        cost, not on what they cost: strong ones would hold the search above the budget for ever.
        The step is halved until it changes the share by at most `budget_loss.largest_move`.

        Args:
            loss: Of the expected cost, the same in every process.
            lr: The learning rate.
            task: Of each process's images.
        """
        (gradient,) = torch.autograd.grad(loss, [self.alphas])
        if task is not None and task.requires_grad:
            gradient = gradient + self._inward(self._task_gradient(task))
        self.alphas.grad = gradient
        set_lr(self._optimizer, lr)
        with torch.no_grad():
            before, share = self.alphas.clone(), float(self.expected_share())
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

    def _task_gradient(self, task: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(task, [self.alphas])
        if world_size() > 1:
            gradient = (add_up(gradient.to(self._device)) / world_size()).cpu()
        return gradient

    def _inward(self, gradient: Tensor) -> Tensor:
        """Returns a gradient without what, followed, takes the share farther from its band."""
        expected = self.expected_share()
        (slope,) = torch.autograd.grad(expected, [self.alphas])
        share, rise = float(expected.detach()), float((gradient * slope).sum())
        if (share >= BAND[1] and rise < 0) or (share < BAND[0] and rise > 0):
            return gradient - slope * (rise / (slope * slope).sum())
        return gradient

    def _shorten(self, before: Tensor, share: float) -> None:
        for _ in range(_HALVINGS):
            if abs(float(self.expected_share()) - share) <= largest_move(share):
                return
            self.alphas.copy_((before + self.alphas) / 2)
            self._optimizer.state[self.alphas]["momentum_buffer"].mul_(0.5)
