"""Training steps without Python in them: dense networks side by side, and DMCP's search.

Steps of a small network are bound by the launches of their kernels. So each is recorded once as a
CUDA graph and replayed, and several networks run side by side on streams of one process. On a CPU,
or where recording fails, the same code runs step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from duo100_data import SIDE, Composites, network_input
from torch import Tensor, nn

from dmcp_deploy.network.selection import Borrowed
from dmcp_deploy.search.architecture import Architecture
from dmcp_deploy.search.budget_loss import budget_loss
from dmcp_deploy.search.costs.limits import Limits
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.fit import fit_widths
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import Recipe, Schedule

_WARM_UPS = 3  # steps before a recording: libraries choose their kernels in them
_CHUNK = 16  # batches that are drawn at once
MOMENTUM = 0.9


class Recorded:
    """Work without arguments, on a stream of its own; replayed as a CUDA graph where asked."""

    def __init__(self, work: Callable[[], None], device: torch.device, graph: bool) -> None:
        self._work, self._calls = work, 0
        self._wanted = graph and device.type == "cuda"
        self._graph: Any = None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def on_stream(self) -> AbstractContextManager[Any]:
        """Returns the context in which everything that the work reads is to be made."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def __call__(self) -> None:
        """Does the work once more; the first calls are done step by step."""
        with self.on_stream():
            if self._wanted and self._graph is None and self._calls == _WARM_UPS:
                self._record()
            if self._graph is None:
                self._work()
            else:
                self._graph.replay()
        self._calls += 1

    def _record(self) -> None:
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self._work()
        self._graph = graph


class Stream:
    """Batches of a split, drawn some at a time; the place of the current one is on the device."""

    def __init__(self, composites: Composites, batch: int, seed: int, device: torch.device) -> None:
        self._composites, self._batch, self._drawn = composites, batch, 0
        self._generator = torch.Generator(device).manual_seed(seed)
        self._canvases = torch.zeros((_CHUNK, batch, SIDE, SIDE), dtype=torch.uint8, device=device)
        self._labels = torch.zeros((_CHUNK, batch), dtype=torch.int64, device=device)

    def refill(self) -> None:
        """Draws new batches if all have been read; called before each step."""
        if self._drawn % _CHUNK == 0:
            canvases, labels = self._composites.draw(_CHUNK * self._batch, self._generator)
            self._canvases.copy_(canvases.view_as(self._canvases))
            self._labels.copy_(labels.view_as(self._labels))
        self._drawn += 1

    def batch(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Returns input and labels of a step, int64 [1] on the device."""
        place = step % _CHUNK
        canvases = self._canvases.index_select(0, place)[0]
        return network_input(canvases), self._labels.index_select(0, place)[0]


class Descent:
    """The product's SGD (Nesterov, no decay on what has one dimension), its rate on the device."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        self.parameters = [*model.parameters()]
        self.momenta = [torch.zeros_like(p) for p in self.parameters]
        self._decay = schedule.weight_decay

    def drop(self) -> None:
        """Drops all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def move(self, rate: Tensor) -> None:
        """Moves all parameters by a learning rate, a scalar on the device."""
        gradients = [p.grad for p in self.parameters]
        decayed = [i for i, p in enumerate(self.parameters) if p.ndim > 1]
        torch._foreach_add_(
            [gradients[i] for i in decayed],
            [self.parameters[i] for i in decayed],
            alpha=self._decay,
        )
        torch._foreach_mul_(self.momenta, MOMENTUM)
        torch._foreach_add_(self.momenta, gradients)
        torch._foreach_add_(gradients, self.momenta, alpha=MOMENTUM)
        torch._foreach_mul_(gradients, rate)
        torch._foreach_sub_(self.parameters, gradients)


class DenseLane:
    """One dense network that is trained from labels, with an average of its weights."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        recipe: Recipe,
        steps: int,
        composites: Composites,
        seed: int,
        precision: Precision,
        graph: bool,
    ) -> None:
        """Prepares `steps` steps of the network that `make` returns."""
        device = precision.device
        self._recorded = Recorded(self._work, device, graph)
        self._smoothing, self._precision = recipe.label_smoothing, precision
        with self._recorded.on_stream():
            self.model = precision.place(make()).train()
            self._batches = Stream(composites, recipe.train.batch_size, seed, device)
            self._descent = Descent(self.model, recipe.train)
            rates = [recipe.train.lr_at(step, steps) for step in range(steps)]
            decays = [min(recipe.ema_decay, (1 + step) / (10 + step)) for step in range(steps)]
            self._rates, self._decays = (torch.tensor(t, device=device) for t in (rates, decays))
            self._step = torch.zeros(1, dtype=torch.int64, device=device)
            self._now = [t for t in self.model.state_dict().values() if t.is_floating_point()]
            self._average = [tensor.clone() for tensor in self._now]
            self.loss = torch.zeros((), device=device)

    def step(self) -> None:
        """Starts one step; it need not have ended."""
        with self._recorded.on_stream():
            self._batches.refill()
        self._recorded()

    @torch.no_grad()
    def finish(self) -> nn.Module:
        """Returns the network with the average of its weights."""
        with self._recorded.on_stream():
            torch._foreach_copy_(self._now, self._average)
        if self._recorded.stream is not None:
            self._recorded.stream.synchronize()
        return self.model

    def _work(self) -> None:
        self._descent.drop()
        images, labels = self._batches.batch(self._step)
        with self._precision.autocast():
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._smoothing)
        loss.backward()
        self.loss.copy_(loss.detach())
        self._descent.move(self._rates.index_select(0, self._step)[0])
        decay = self._decays.index_select(0, self._step)[0]
        with torch.no_grad():
            torch._foreach_mul_(self._average, decay)
            torch._foreach_add_(self._average, torch._foreach_mul(self._now, 1 - decay))
            self._step += 1


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
        units = fit_widths(problem.limits, problem.grid, wanted)
        return problem.space.widths(units), float(architecture.expected_share().detach())

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
        precision, smoothing = self._problem.precision, self._problem.recipe.label_smoothing
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
        smoothing = self._problem.recipe.label_smoothing
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


def move_alphas(
    problem: SearchProblem, architecture: Architecture, task: Tensor | float, done: float
) -> None:
    """Moves the alphas by task and budget loss where a share of stage 2 is done."""
    recipe = problem.recipe
    rate = recipe.alpha_lr * (1 + math.cos(math.pi * done)) / 2
    budget = budget_loss(architecture.expected_share())
    architecture.move(task + recipe.budget_weight * budget, rate)


def new_architecture(problem: SearchProblem) -> Architecture:
    """Returns a search's alphas at their start; their gates stay on the CPU as well."""
    cpu = torch.device("cpu")
    return Architecture(problem.space, problem.limits, problem.recipe.transition, cpu)


def blind_widths(problem: SearchProblem, steps: int) -> Mapping[str, int]:
    """Returns the plan of a search whose alphas see the budget loss alone, and no image."""
    architecture = new_architecture(problem)
    for step in range(steps):
        move_alphas(problem, architecture, 0.0, step / max(1, steps))
    wanted = architecture.expected_units().detach().numpy()
    units = fit_widths(problem.limits, problem.grid, wanted)
    return problem.space.widths(units)
