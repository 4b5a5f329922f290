"""DMCP's search as CUDA graphs: the product's steps, with masks in place of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from worth.alphas import move_alphas, new_architecture
from worth.duo_data import Composites
from worth.duo_steps import Descent, Recorded, Stream

from dmcp_deploy.network.selection import Borrowed
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.problem import SearchProblem


class DmcpSearch:
    """DMCP as the product searches, with random networks made by masks in place of slices.

    A channel that is masked behind its batch norm neither acts nor learns, so a masked network
    computes what the sliced one does, and has shapes that can be recorded.
    """

    def __init__(
        self, problem: SearchProblem, steps: int, composites: Composites, graph: bool
    ) -> None:
        """Prepares a search of `steps` steps; the recipe says how many are of stage 2."""
        device, seed = problem.precision.device, problem.request.seed
        self._problem, self._steps = problem, steps
        self._weight_step = Recorded(self._weight_work, device, graph)
        self._gate_step = Recorded(self._gate_work, device, graph)
        self._gate_step.stream = self._weight_step.stream
        with self._weight_step.on_stream():
            self.task = DmcpTask(problem, steps)
            self.task.architecture = new_architecture(problem)
            self._supernet, self._model = self.task._weights.supernet, problem.network.model
            self._batches = Stream(composites, problem.recipe.search.batch_size, seed, device)
            self._descent = Descent(self._model, problem.recipe.search)
            count = problem.network.unit_count
            self._masks = torch.ones((problem.recipe.random_networks, count), device=device)
            self._gates = torch.ones(count, device=device, requires_grad=True)
            self._gradient = torch.zeros(count, device=device)
            self._rate = torch.zeros((), device=device)
            self._step = torch.zeros(1, dtype=torch.int64, device=device)
            self.loss = torch.zeros((), device=device)
        self._minimum = problem.space.widths(problem.grid.nearest(problem.space.minimum))
        self._kept: list[Tensor] = []

    def run(self, first: int, last: int) -> None:
        """Does the steps from one to another."""
        for step in range(first, last):
            with self._weight_step.on_stream():
                self._batches.refill()
                self._prepare(step)
            self._weight_step()
            if step >= self.task.first_architecture_step:
                self._move_alphas(step)
            with self._weight_step.on_stream():
                self._step += 1

    def keep(self) -> None:
        """Keeps weights and momenta as they are, to go back to."""
        with self._weight_step.on_stream(), torch.no_grad():
            self._kept = [t.clone() for t in (*self._descent.parameters, *self._descent.momenta)]

    def go_back(self, limits: Limits, transition: str) -> None:
        """Goes back to what was kept, to search for another budget from there."""
        recipe = replace(self._problem.recipe, transition=transition)
        self._problem = replace(self._problem, limits=limits, recipe=recipe)
        with self._weight_step.on_stream(), torch.no_grad():
            now = [*self._descent.parameters, *self._descent.momenta]
            torch._foreach_copy_(now, self._kept)
        # The same task, so that the weights stay where the recorded work finds them.
        self.task._problem = self._problem
        self.task.architecture = new_architecture(self._problem)

    def widths(self) -> tuple[dict[str, int], float]:
        """Returns the plan by expected sampling, and the expected share of the budget."""
        problem, architecture = self._problem, self.task.architecture
        wanted = architecture.expected_units().detach().numpy()
        share = float(architecture.expected_share().detach())
        return problem.widths_near(wanted, problem.limits), share

    def _prepare(self, step: int) -> None:
        """Puts the step's learning rate and random networks where the recorded work reads them."""
        rate = self._problem.recipe.search.lr_at(step, self._steps)
        self._rate.fill_(rate)
        shared = self.task._weights
        networks = shared.networks(step, lambda *draw: self.task._draw(step, *draw))[1:]
        masks = torch.stack([self._mask(units) for units in networks])
        self._masks.copy_(masks, non_blocking=True)

    def _mask(self, units: Sequence[int]) -> Tensor:
        full = self._problem.space.full.tolist()
        return torch.cat(
            [(torch.arange(n) < int(k)).float() for n, k in zip(full, units, strict=True)]
        )

    def _weight_work(self) -> None:
        self._descent.drop()
        precision, smoothing = self._problem.precision, self._problem.recipe.smoothing_in_search
        images, labels = self._batches.batch(self._step)
        with precision.autocast():
            logits = self._supernet(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        loss.backward()
        self.loss.copy_(loss.detach())
        teacher = F.softmax(logits.detach().float(), dim=1)
        borrowed = Borrowed()
        self._distil(images, teacher, keeps=self._minimum, borrowed=borrowed)
        borrowed.hand_back()
        for mask in self._masks:
            self._distil(images, teacher, gates=mask)
        self._descent.move(self._rate)

    def _distil(self, images: Tensor, teacher: Tensor, **narrowed: Any) -> None:
        with self._problem.precision.autocast():
            logits = self._supernet(images, **narrowed)
        F.kl_div(F.log_softmax(logits.float(), dim=1), teacher, reduction="batchmean").backward()

    def _gate_work(self) -> None:
        """Computes the gradient of the gates; the weights stand still."""
        self._model.requires_grad_(False)
        images, labels = self._batches.batch(self._step)
        with self._problem.precision.autocast():
            logits = self._supernet(images, gates=self._gates)
        self._model.requires_grad_(True)
        smoothing = self._problem.recipe.smoothing_in_search
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        self._gradient.copy_(torch.autograd.grad(loss, [self._gates])[0])

    def _move_alphas(self, step: int) -> None:
        architecture = self.task.architecture
        first = self.task.first_architecture_step
        done = (step - first) / max(1, self._steps - first)
        gates = architecture.gates()
        with self._gate_step.on_stream():
            with torch.no_grad():
                self._gates.copy_(gates)
            self._gate_step()
            gradient = self._gradient.cpu().to(gates.dtype)
        # What has the gradient of the task loss at these gates.
        task = (gates * gradient).sum()
        move_alphas(self._problem, architecture, task, done)
