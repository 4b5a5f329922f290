"""Training steps without Python in them, for dense networks side by side and for searches.

Steps of a small network are bound by the launches of their kernels. So each is recorded once as a
CUDA graph and replayed, and several networks run side by side on streams of one process. On a CPU,
or where recording fails, the same code runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worth.duo_data import SIDE, Composites, network_input

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
