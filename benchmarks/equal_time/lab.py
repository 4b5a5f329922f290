"""What `latency_worth.py` trains and measures: searches, supernets, pruned networks, their time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from duo_data import CLASSES, batches, network_input, open_splits
from equal_time.arms import Setup, as_quick
from plans import fresh_network
from torch import Tensor

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import filter_scores, l2_norm
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.magnitude import bn_scale_scores
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.evaluate import evaluate, recalibrate
from dmcp_deploy.training.loop import LoopSettings, SharedPart, run_loop
from dmcp_deploy.training.task import Task
from dmcp_deploy.training.weights import load_weights, read_tensors

FIRST, LATENCY, FLOPS = "first", "latency", "flops"
#: Searches under FLOPs budgets at most, and by what share the budget of one may miss the budget of
#: equal time that its plan is decoded at.
FLOPS_SEARCHES, NEAR = 2, 0.05
_SCORED, _RECALIBRATED = 32, 16  # batches
_LOSS_IMAGES = 5000
_MODEL = "model."

#: Returns the search of a network (`network`, `seed`), as `Setup.timed` does.
Problem = Callable[..., SearchProblem]


class Lab:
    """Duo-100, and the folder of everything that is trained on it.

    Attributes:
        setup: The network, its target and budget.
    """

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(1)
        spec = setup.target.spec
        side = spec.input_shape[-1]
        if (spec.input_shape, spec.num_classes) != ((3, side, side), CLASSES):
            raise SystemExit(f"Duo-100 is of {CLASSES} classes and square, the table of {spec}.")
        self.setup, self._folder = setup, Path(setup.options.work)
        self._precision = setup.counted().precision
        self._splits = open_splits(setup.options.data, self._precision.device, side)

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Composites of garments that no network is trained on."""
        return self._splits["test"].fixed(self.setup.options.test_images, seed=20260)

    def search(self, seed: int) -> dict[str, Any]:
        """Does a seed's first stage, then the searches that go on from it; returns what they find.

        The FLOPs budget of equal time is not known before: it is first taken from what the search
        under the budget in time expects to keep, then from the search's own, which is done once
        more where that moved it far.
        """
        self._supernet_task(seed, FIRST, self.setup.counted)
        latency = self._searched(seed, LATENCY, self.setup.timed)
        time, tried = self.setup.timed().limits.limits[0], []
        while True:
            wanted = np.array((tried or [latency])[-1]["wanted"])
            flops = as_quick(self.setup.counted(), wanted, time)[1]
            near = tried and abs(math.log(flops / tried[-1]["budget"])) <= NEAR
            if near or len(tried) == FLOPS_SEARCHES:
                scores = self._scores(seed).tolist()
                return {"seed": seed, LATENCY: latency, FLOPS: tried, "scores": scores}
            problem = partial(self.setup.counted, str(flops))
            found = self._searched(seed, f"{FLOPS}-{len(tried)}", problem)
            tried.append({"budget": flops, **found})

    def losses(self, seed: int, plan: ChannelPlan) -> dict[str, float]:
        """Returns a plan's loss on unseen images by each supernet of a seed, recalibrated for it.

        The first stage's knows no budget; the others were trained at their own search's widths.
        """
        last = max((self._folder / f"search-{seed}").glob(f"{FLOPS}-*.safetensors")).stem
        images, losses = [part[:_LOSS_IMAGES] for part in self.test], {}
        for name, file in ((FIRST, FIRST), (LATENCY, LATENCY), (FLOPS, last)):
            dense = slice_network(self._supernet(seed, file), plan.groups)
            drawn = self._batches(seed, "recalibration", range(_RECALIBRATED))
            recalibrate(dense, drawn, self._precision)
            losses[name] = evaluate(dense, batches(*images, 500), self._precision).loss
        return losses

    def train(self, name: str, seed: int, repeat: int, plan: ChannelPlan) -> dict[str, Any]:
        """Returns how a plan's network does once it is trained.

        Args:
            name: Of its files.
            seed: Of the search, whose first stage's weights all arms start from.
            repeat: Which of the networks of the same plan.
            plan: The plan.
        """
        options, drawn = self.setup.options, step_seed(seed, repeat, "pruned")
        network, fresh = self._supernet(seed, FIRST), options.start == "fresh"
        make = partial(fresh_network, seed=drawn) if fresh else slice_network
        dense = make(network, plan.groups)
        task = DenseTask(dense, self.setup.recipe, options.dense_steps, self._precision)
        token = f"{options.start} {options.dense_steps} {self._asked}"
        self._run(task, LoopSettings(name, options.dense_steps, drawn, token, *self._files(name)))
        found = evaluate(dense, batches(*self.test, 500), self._precision)
        return {"top1": found.top1, "loss": found.loss}

    @property
    def _asked(self) -> str:
        """What all training depends on."""
        options = self.setup.options
        return f"{self.setup.target.spec} {options.batch} {options.lr} {options.search_steps}"

    def _searched(self, seed: int, name: str, problem: Problem) -> dict[str, Any]:
        architecture = self._supernet_task(seed, name, problem).architecture
        share = float(architecture.expected_share().detach())
        wanted = architecture.expected_units().detach().tolist()
        return {"wanted": wanted, "expected_share": share}

    def _supernet_task(self, seed: int, name: str, problem: Problem) -> DmcpTask:
        """Returns a search behind its last step, the first stage or what goes on from it."""
        steps = self.setup.options.search_steps
        search = problem(network=self.setup.fresh(seed), seed=seed)
        task = DmcpTask(search, 2 * steps)
        token, shared = f"{FIRST} {seed} {self.setup.options.align} {self._asked}", None
        path, metrics = self._files(f"search-{seed}/{name}")
        if name != FIRST:
            first = self._files(f"search-{seed}/{FIRST}")[0]
            shared = SharedPart(steps, token, first, given=first)
            token += f" {search.limits.limits[0].asked} {self.setup.target.digest}"
        count = steps if name == FIRST else 2 * steps
        self._run(task, LoopSettings(name, count, seed, token, path, metrics, shared=shared))
        return task

    def _run(self, task: Task, settings: LoopSettings) -> None:
        def drawn(start: int) -> Iterator[Batch]:
            return self._batches(settings.seed, "training", range(start, settings.steps))

        run_loop(task, drawn, settings)

    def _batches(self, seed: int, purpose: str, steps: range) -> Iterator[Batch]:
        """Yields the training batches of some steps, each drawn from its seed and step alone."""
        for step in steps:
            generator = torch.Generator().manual_seed(step_seed(seed, step, purpose))
            canvases, labels = self._splits["train"].draw(self.setup.options.batch, generator)
            yield Batch(network_input(canvases), labels)

    def _supernet(self, seed: int, name: str) -> Network:
        """Returns the network with the weights that a search, or its first stage, has left."""
        network, path = self.setup.fresh(seed), self._files(f"search-{seed}/{name}")[0]
        self._precision.place(network.model)
        tensors = read_tensors(path).items()
        model = {n.removeprefix(_MODEL): t for n, t in tensors if n.startswith(_MODEL)}
        load_weights(network.model, model, str(path))
        return network

    def _scores(self, seed: int) -> np.ndarray:
        """Returns the importance of each unit to the first stage's supernet, shape [units]."""
        network, kind = self._supernet(seed, FIRST), self.setup.options.importance
        if kind == "taylor":
            return _taylor(network, self._batches(seed, "importance", range(_SCORED)))
        return bn_scale_scores(network) if kind == "bn-scale" else filter_scores(network, l2_norm)

    def _files(self, name: str) -> tuple[Path, Path]:
        """Returns where a loop's checkpoint and its figures go."""
        return self._folder / f"{name}.safetensors", self._folder / f"{name}.jsonl"


def _taylor(network: Network, drawn: Iterable[Batch]) -> np.ndarray:
    """Returns by how much the loss would change without each unit, to first order, shape [units].

    It is the gradient of a gate, its absolute value averaged over batches: behind batch norms
    gamma dL/dgamma + beta dL/dbeta, which is HALP's importance.
    """
    supernet = Supernet(network).train()
    gates, scores = torch.ones(network.unit_count, requires_grad=True), []
    for batch in drawn:
        loss = F.cross_entropy(supernet(batch.images, gates=gates), batch.labels)
        scores.append(torch.autograd.grad(loss, [gates])[0].abs())
    return torch.stack(scores).double().mean(0).numpy()
