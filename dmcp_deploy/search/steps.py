"""The weight steps of a search, and the images that it trains on and judges plans by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from dmcp_deploy.data.holdout import hold_out
from dmcp_deploy.data.loader import eval_batches, steps_per_epoch, train_batches
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.sources import ImageSource
from dmcp_deploy.data.types import Batch
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.distributed import rank, world_size
from dmcp_deploy.training.loop import run_loop
from dmcp_deploy.training.task import Task


def epoch_steps(problem: SearchProblem) -> int:
    """Returns the weight steps of one pass over the training images."""
    assert problem.data is not None
    return steps_per_epoch(problem.data, problem.recipe.search.batch_size * world_size())


def search_steps(problem: SearchProblem) -> int:
    """Returns the weight steps of a search, all its stages together."""
    return problem.cap(round(problem.recipe.search.epochs * epoch_steps(problem)))


def run_steps(problem: SearchProblem, task: Task, steps: int, shared: int = 0) -> None:
    """Runs a search's weight steps on its training images, from the checkpoint if there is one.

    Args:
        problem: The search.
        task: What is repeated.
        steps: How often.
        shared: The first of the steps that do not depend on the budget.
    """

    def batches(start: int) -> Iterator[Batch]:
        return training_batches(
            problem,
            problem.request.seed,
            steps - start,
            start=start,
            device=problem.precision.device,
        )

    run_loop(
        task, batches, problem.loop_settings("search", steps, shared), problem.compute.progress
    )


def training_batches(
    problem: SearchProblem,
    seed: int,
    steps: int,
    *,
    start: int = 0,
    divided: bool = True,
    augment: bool = True,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Returns batches of training images of the search's size.

    Args:
        problem: The search.
        seed: Of order and augmentation.
        steps: How many batches.
        start: The number of the first one.
        divided: Whether each process gets its share of a batch of all; else all get the same.
        augment: Whether images are changed at random.
        device: Where batches are wanted; None leaves them in main memory.
    """
    assert problem.data is not None
    return train_batches(
        problem.data,
        image_size=problem.image_size,
        batch_size=problem.recipe.search.batch_size,
        seed=seed,
        start_step=start,
        steps=steps,
        workers=problem.compute.workers,
        rank=rank() if divided else 0,
        world=world_size() if divided else 1,
        augment=augment,
        device=device,
    )


def recalibration_batches(problem: SearchProblem) -> Iterator[Batch]:
    """Returns the training batches that batch norms are recalibrated on, the same at every call."""
    seed = step_seed(problem.request.seed, 0, "recalibration")
    steps = problem.cap(problem.recipe.recalibration_batches)
    return training_batches(problem, seed, steps, divided=False)


def without_held_out(problem: SearchProblem) -> tuple[SearchProblem, ImageSource]:
    """Returns a search without some of its training images, and these: to judge plans by.

    Raises:
        DmcpError: There are too few training images.
    """
    assert problem.data is not None
    rest, held_out = hold_out(problem.data, problem.recipe.held_out_images, problem.request.seed)
    return replace(problem, data=rest), held_out


def held_out_batches(problem: SearchProblem, held_out: ImageSource) -> tuple[Iterator[Batch], int]:
    """Returns whole batches of images held out, unchanged, and the number of images in all.

    Batches are as large as in training, or one of all images where these are fewer.
    """
    size = min(problem.recipe.search.batch_size, len(held_out))
    count = problem.cap_batches(len(held_out) // size)
    batches = eval_batches(held_out, image_size=problem.image_size, batch_size=size)
    return islice(batches, count), count * size
