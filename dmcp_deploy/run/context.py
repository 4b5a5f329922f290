"""One run with what its stages need: network, data, cost, each made on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch, ImageData, crops_of_views
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import sorted_tensors
from dmcp_deploy.network.models import build_network
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import plan_problem
from dmcp_deploy.training.distributed import is_main, rank, wait_for_all, world_size
from dmcp_deploy.training.evaluate import Accuracy, evaluate, recalibrate
from dmcp_deploy.training.loop import LoopSettings
from dmcp_deploy.training.precision import Precision, choose_precision
from dmcp_deploy.training.recipe import (
    Recipe,
    Schedule,
    recipe_from_json,
)
from dmcp_deploy.training.weights import (
    imagenet_tensors,
    load_pretrained,
    load_weights,
    read_tensors,
)
from dmcp_deploy.units import Budget, parse_budget

SUPERNET = "supernet.safetensors"

_PROOF_IMAGES = 8
EVAL_BATCH = 64


class Job:
    """A run's request made real."""

    def __init__(self, run: RunDir, request: RunRequest, compute: Compute) -> None:
        """Binds a request to a run directory; nothing is built or read yet."""
        self.run, self.request, self.compute = run, request, compute

    @classmethod
    def resume(cls, folder: Path, compute: Compute) -> Job:
        """Returns the job of a run that was begun before.

        Raises:
            DmcpError: There is no run in the folder.
        """
        run = RunDir(folder)
        return cls(run, run.request(), compute)

    @cached_property
    def precision(self) -> Precision:
        """Device and arithmetic of training."""
        chosen = choose_precision(self.compute.device, self.request.precision)
        return replace(chosen, sync_bn=self.request.sync_bn)

    @cached_property
    def exact(self) -> Precision:
        """The same device in FP32: what accuracies and proofs are computed in."""
        return replace(self.precision, bf16=False)

    @cached_property
    def data(self) -> ImageData:
        """The data; the same as at the run's start."""
        data = open_data(self.request.data, progress=self.compute.progress)
        if data.digest != self.request.data_digest:
            raise DmcpError(
                f"The data {self.request.data} has changed since the run in {self.run.path} was"
                " begun: restore it, or choose another --out."
            )
        return crops_of_views(data) if self.request.augment_on == "device" else data

    @cached_property
    def recipe(self) -> Recipe:
        """The hyper-parameters."""
        return recipe_from_json(dict(self.request.recipe))

    @cached_property
    def budget(self) -> Budget:
        """The FLOPs budget."""
        return parse_budget(self.request.budget)

    @property
    def deployed_size(self) -> int:
        """Side of the deployed input in pixels."""
        return self.request.network.input_shape[-1]

    @property
    def image_size(self) -> int:
        """Side of the training images in pixels."""
        return self.recipe.train_size or self.request.network.input_shape[-1]

    @contextmanager
    def stage(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Yields a place for a stage's figures; of several processes the first records them.

        It ends for all of them once the record is written (see `RunDir.stage`).
        """
        if is_main():
            with self.run.stage(name, inputs, outputs) as figures:
                yield figures
        else:
            yield {}
        wait_for_all()

    def random_network(self) -> Network:
        """Returns the full network with random weights, the same at every call."""
        return build_network(self.request.network, self.request.seed)

    def first_network(self) -> Network:
        """Returns the full network with the weights that the search starts from.

        Given weights come with the channels of every group in order of importance.

        Raises:
            DmcpError: The given weights are not there, damaged, or do not fit.
        """
        network, source = self.random_network(), self.request.weights
        if source is None:
            return network
        if source == "imagenet":
            tensors = imagenet_tensors(self.request.network.model)
        else:
            tensors = read_tensors(Path(source))
        skipped = load_pretrained(network.model, tensors, source)
        if skipped:
            self.compute.progress.say(
                f"Left out of {source}, made for other classes: {', '.join(skipped)}"
            )
        load_weights(network.model, sorted_tensors(network), source)
        return network

    def searched_network(self) -> Network:
        """Returns the full network with the weights that the search left behind.

        Raises:
            DmcpError: They are missing or damaged.
        """
        record = self.run.stages().get("search", {"outputs": {}})
        if SUPERNET not in record["outputs"]:
            return self.first_network()
        path = self.run.file(SUPERNET)
        if not path.exists():
            raise DmcpError(f"{path} is missing: run search again with the same settings.")
        if digest_file(path) != record["outputs"][SUPERNET]:
            raise DmcpError(
                f"{path} is damaged, the search has written another file: delete it and run search"
                " again with the same settings, which goes on from its last checkpoint."
            )
        network = self.random_network()
        load_weights(network.model, read_tensors(path), str(path))
        return network

    def problem(self, network: Network) -> SearchProblem:
        """Returns the search problem of the run.

        Raises:
            DmcpError: The budget cannot be reached.
        """
        cost, space, grid, budget_macs = plan_problem(
            network, self.budget, self.request.align, self.recipe
        )
        return SearchProblem(
            network=network,
            cost=cost,
            space=space,
            grid=grid,
            budget_macs=budget_macs,
            data=self.data,
            recipe=self.recipe,
            request=self.request,
            compute=self.compute,
            precision=self.precision,
            folder=self.run.path,
        )

    def plan(self) -> ChannelPlan:
        """Returns the run's channel plan.

        Raises:
            DmcpError: There is none yet, it is damaged, or it is of another network.
        """
        path = self.run.file("plan.json")
        if not path.exists():
            raise DmcpError(f"{self.run.path} has no plan.json yet: run search first.")
        plan = ChannelPlan.load(path)
        if plan.network != self.request.network:
            theirs, ours = _describe(plan.network), _describe(self.request.network)
            raise DmcpError(f"{path} is a plan of {theirs}, and the run is of {ours}.")
        return plan

    def loop_settings(self, name: str, steps: int, token: str) -> LoopSettings:
        """Returns how a loop of this run goes; its files are named after it."""
        return LoopSettings(
            title=name,
            steps=steps,
            seed=step_seed(self.request.seed, 0, name),
            token=token,
            checkpoint=self.run.file(f"checkpoints/{name}.safetensors"),
            metrics=self.run.file(f"metrics/{name}.jsonl"),
            checkpoint_s=self.compute.checkpoint_s,
            tensorboard=self.compute.tensorboard,
        )

    def batches(self, schedule: Schedule, start: int, steps: int, purpose: str) -> Iterator[Batch]:
        """Returns training batches from one step on, in an order of their own per purpose."""
        return self._batches_at(self.image_size, schedule, start, steps, purpose)

    def training_batches(self, start: int, steps: int) -> Iterator[Batch]:
        """Returns the pruned network's batches; the last of them come at the deployed size."""
        turn = steps
        if self.image_size != self.deployed_size:
            turn -= round(self.recipe.finish_share * steps)
        schedule = self.recipe.train
        if start < turn:
            yield from self._batches_at(self.image_size, schedule, start, turn, "train")
        if turn < steps:
            first = max(start, turn)
            yield from self._batches_at(self.deployed_size, schedule, first, steps, "train")

    def _batches_at(
        self, image_size: int, schedule: Schedule, start: int, steps: int, purpose: str
    ) -> Iterator[Batch]:
        return train_batches(
            self.data,
            image_size=image_size,
            batch_size=schedule.batch_size,
            seed=step_seed(self.request.seed, 0, f"{purpose} data"),
            start_step=start,
            steps=steps - start,
            workers=self.compute.workers,
            rank=rank(),
            world=world_size(),
            device=self.precision.device,
        )

    def recalibrate(self, model: nn.Module, title: str) -> None:
        """Recomputes a model's batch-norm statistics on some training batches, in place.

        All processes do it together, each on its share of the batches.
        """
        model = self.exact.place(model)
        count = self.recipe.recalibration_batches
        with self.compute.progress.task(title, count, unit="batch") as bar:
            batches = self.batches(self.recipe.search, 0, count, "recalibration")
            recalibrate(model, _counted(batches, bar.advance), self.exact, shared=True)

    def evaluate(self, model: nn.Module, title: str, image_size: int | None = None) -> Accuracy:
        """Returns a model's accuracy on the validation images.

        All processes do it together, each on its share of the images.
        """
        model = self.exact.place(model)
        with self._validation(title, image_size or self.image_size, rank(), world_size()) as own:
            return evaluate(model, own, self.exact, shared=True)

    @torch.no_grad()
    def logits(self, model: nn.Module, title: str, image_size: int) -> Tensor:
        """Returns a model's logits on all validation images, [M, classes], on the CPU."""
        model = self.exact.place(model).eval()
        with self._validation(title, image_size) as batches:
            return torch.cat([model(self.exact.move(batch).images).cpu() for batch in batches])

    def validation_arrays(self) -> Iterator[tuple[Any, Any]]:
        """Yields the validation images at the deployed size, and their labels, as arrays."""
        for batch in self._validation_batches(self.deployed_size):
            yield batch.images.contiguous().numpy(), batch.labels.numpy()

    def calibration_images(self, count: int) -> Tensor:
        """Returns training images as they are deployed, unchanged, [count, C, H, W].

        They are a fixed choice from all over the training images; fewer where there are not
        that many.
        """
        batches = eval_batches(
            self.data.train,
            image_size=self.deployed_size,
            batch_size=EVAL_BATCH,
            workers=self.compute.workers,
            limit=count,
        )
        return torch.cat([batch.images for batch in batches]).contiguous()

    def proof_images(self) -> Tensor:
        """Returns a few validation images at the deployed size, [8, C, H, W], on the CPU."""
        batches = eval_batches(
            self.data.val,
            image_size=self.deployed_size,
            batch_size=_PROOF_IMAGES,
            limit=_PROOF_IMAGES,
        )
        return next(batches).images

    @contextmanager
    def _validation(
        self, title: str, image_size: int, first: int = 0, step: int = 1
    ) -> Iterator[Iterator[Batch]]:
        total = len(range(first, -(-self._validated // EVAL_BATCH), step))
        with self.compute.progress.task(title, total, unit="batch") as bar:
            batches = self._validation_batches(image_size, first, step, self.exact.device)
            yield _counted(batches, bar.advance)

    @property
    def _validated(self) -> int:
        """Validation images looked at: all of them, or one batch in a trial."""
        count = len(self.data.val)
        return count if self.request.max_steps is None else min(EVAL_BATCH, count)

    def _validation_batches(
        self, image_size: int, first: int = 0, step: int = 1, device: torch.device | None = None
    ) -> Iterator[Batch]:
        return eval_batches(
            self.data.val,
            image_size=image_size,
            batch_size=EVAL_BATCH,
            workers=self.compute.workers,
            limit=self._validated,
            rank=first,
            world=step,
            device=device,
        )


def _counted(batches: Iterator[Batch], done: Callable[[], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        done()


def _describe(spec: NetworkSpec) -> str:
    sides = "x".join(str(n) for n in spec.input_shape)
    return f"{spec.model} x{spec.width_mult:g} for {spec.num_classes} classes on {sides} inputs"
