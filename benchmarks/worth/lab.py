"""Searches and trainings of the small experiments: each a run directory of the package.

Tasks are small enough for a CPU. A plan has a tenth of the multiply-adds of the full network, 0.48M
on Fashion-MNIST and 1.5M on Duo-100.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worth.duo_images import open_duo
from worth.plans import LARGER, unsearched

from dmcp_deploy.artifact import write_text
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.holdout import spread
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.problem import search_problem
from dmcp_deploy.run.resolve import make_request
from dmcp_deploy.run.stages import prepare_search, run_search, run_train
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import SEARCH, TRAIN
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import make_plan
from dmcp_deploy.search.steps import search_steps
from dmcp_deploy.training.checkpoint import Checkpoint

Record = dict[str, Any]
Widths = Mapping[str, int]

ALIGN = 1
_SEARCH_BATCH, _TRAIN_BATCH = 64, 128


@dataclass(frozen=True)
class Task:
    """What is to be learnt, and by which network.

    Attributes:
        width: The width multiplier of the full network.
        side: Of the pictures in pixels.
        open: (pictures to learn from, to judge by) -> the data; None is all.
    """

    width: float
    side: int
    open: Callable[[tuple[int, int] | None], ImageData]


def _garments(counts: tuple[int, int] | None) -> ImageData:
    data = open_data("fashion-mnist")
    return data if counts is None else spread(data, *counts)


def _duo(counts: tuple[int, int] | None) -> ImageData:
    return open_duo(48) if counts is None else open_duo(48, *counts)


TASKS = {"fashion": Task(2.0, 32, _garments), "duo48": Task(2.4, 48, _duo)}


@dataclass(frozen=True)
class Lab:
    """How a task is searched and trained.

    Attributes:
        task: One of `TASKS`.
        work: Where run directories go.
        budget: In percent of the full network's multiply-adds.
        search_steps: Of both stages.
        train_steps: Of a pruned network.
        device: "auto", "cpu", "cuda".
        model: A function in networks.py.
        recipe: Fields of the recipe that differ from the lab's own.
        pictures: To learn from, and to judge by; None is all.
    """

    task: str
    work: Path
    budget: float
    search_steps: int
    train_steps: int
    device: str = "cpu"
    model: str = "small_mobilenet"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[int, int] | None = None

    @classmethod
    def asked(cls, options: argparse.Namespace, **changes: Any) -> Lab:
        """Returns the lab that an experiment's options ask for (see `book.parser`)."""
        names = ("task", "work", "budget", "search_steps", "train_steps", "device", "recipe")
        given = {name: getattr(options, name) for name in (*names, "pictures")}
        return cls(**{**given, **changes})

    def search(self, seed: int) -> Record:
        """Searches by DMCP where that is not done yet; returns its plan and figures."""
        context = self.searched(seed)
        plan, figures = context.plan(), context.run.figures(SEARCH)
        return {
            "widths": plan.widths(),
            "macs": plan.macs,
            "expected_share": figures["expected_share"],
            "full_top1": figures["full_accuracy"]["top1"],
            "search_s": context.run.stages()[SEARCH].seconds,
        }

    def searched(self, seed: int) -> RunContext:
        """Returns the run of a search by DMCP, which is done."""
        context = self.context(f"search-{seed}", self.budget, method="dmcp", seed=seed)
        if (problem := prepare_search(context)) is not None:
            run_search(context, problem)
        return context

    def train(
        self,
        arm: str,
        seed: int,
        *,
        plan: Widths | None = None,
        search: int | None = None,
        distill: bool = False,
    ) -> Record:
        """Trains a network of an arm where that is not done yet; returns its accuracy.

        Args:
            arm: Of `plans.unsearched`, or any name for a plan that is given.
            seed: The network's number. Networks of one number share neither weights nor images
                over the arms, but those that are distilled have one and the same full network.
            plan: The widths; None for an arm that takes no search.
            search: The search that they are of, if any.
            distill: Whether the network is trained on the weights of the full one.
        """
        budget = self.budget * (LARGER if "larger" in arm else 1)
        drawn = seed if distill else step_seed(seed, 0, arm)
        name = f"{_slug(arm)}-{self.train_steps}-{seed}"
        context = self.context(name, budget, method="uniform", seed=drawn, distill=distill)
        if (problem := prepare_search(context)) is not None:
            run_search(context, problem)
        problem = search_problem(context)
        wanted = make_plan(
            problem, plan or unsearched(problem, arm, self.search_steps // 2), "given", ALIGN
        )
        if context.plan().widths() != wanted.widths():
            wanted.save(context.run.file("plan.json"))
        run_train(context)
        found = context.run.figures(TRAIN)["accuracy"]
        return {
            "arm": arm,
            "seed": seed,
            "search": search,
            "macs": wanted.macs,
            "top1": found["top1"],
            "loss": found["loss"],
            "train_s": context.run.stages()[TRAIN].seconds,
            "widths": wanted.widths(),
        }

    def context(self, name: str, budget: float, **settings: Any) -> RunContext:
        """Returns a run of this task; nothing is done in it yet.

        Args:
            name: Of its directory.
            budget: In percent of the full network's multiply-adds.
            **settings: Fields of `RunOptions`: method, seed, distill.
        """
        task = TASKS[self.task]
        data = _opened(self.task, self.pictures)
        options = RunOptions(
            **settings,
            recipe=str(self._recipe(len(data.train))),
            align=ALIGN,
            width_mult=task.width,
            input_size=task.side,
            precision="fp32" if self.device == "cpu" else "auto",
        )
        compute = Compute(device=self.device, rehearse=False)
        run = RunDir(Path(self.work) / self.task / name)
        model, budgets = f"networks:{self.model}", Budgets(f"{budget:g}%")
        request = make_request(model, budgets, options, compute, run, images=data)
        return RunContext(run, request, compute, images=data)

    def _recipe(self, count: int) -> Path:
        """Writes the recipe's file; returns its path."""
        passes = {"search": _SEARCH_BATCH, "train": _TRAIN_BATCH}
        steps = {"search": self.search_steps, "train": self.train_steps}
        epochs = {name: steps[name] / (count // batch) for name, batch in passes.items()}
        shared = {"warmup": 0.05, "weight_decay": 4e-5}
        rates = {
            "search": {"lr_start": 0.005, "lr": 0.05, "lr_end": 0.005},
            "train": {"lr_start": 0.02, "lr": 0.2, "lr_end": 0.0},
        }
        schedules = {
            name: {"epochs": epochs[name], "batch_size": passes[name], **rates[name], **shared}
            for name in passes
        }
        fields = {**schedules, "label_smoothing": 0.0, "ema_decay": 0.999, **self.recipe}
        path = Path(self.work) / self.task / f"recipe-{self.train_steps}.json"
        write_text(path, json.dumps({"base": "small", **fields}, indent=1) + "\n")
        return path


def trained(context: RunContext) -> tuple[SearchProblem, DmcpTask]:
    """Returns the problem of a search that is done, and its state: weights and alphas."""
    problem = search_problem(context)
    task = DmcpTask(problem, search_steps(problem))
    path = problem.folder / "checkpoints" / "search.safetensors"
    saved = Checkpoint.load(path, problem.request.token())
    assert saved is not None, path
    task.load(saved.tensors)
    return problem, task


@functools.lru_cache(maxsize=1)
def _opened(task: str, pictures: tuple[int, int] | None) -> ImageData:
    return TASKS[task].open(pictures)


def _slug(arm: str) -> str:
    return re.sub(r"\W+", "-", arm)
