"""The weight steps of a search: how many there are, and the loop that makes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dmcp_deploy.data.loader import steps_per_epoch, train_batches
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.distributed import rank, world_size
from dmcp_deploy.training.loop import Task, run_loop


def search_steps(problem: SearchProblem) -> int:
    """Returns the weight steps of a search, all its stages together."""
    assert problem.data is not None
    batch_size = problem.recipe.search.batch_size * world_size()
    per_epoch = steps_per_epoch(problem.data, batch_size)
    return problem.cap(round(problem.recipe.search.epochs * per_epoch))


def run_steps(problem: SearchProblem, task: Task, steps: int, shared: int = 0) -> None:
    """Runs a search's weight steps on its training images, from the checkpoint if there is one.

    Args:
        problem: The search.
        task: What is repeated.
        steps: How often.
        shared: The first of the steps that do not depend on the budget.
    """
    assert problem.data is not None
    batches = partial(
        train_batches,
        problem.data,
        image_size=problem.image_size,
        batch_size=problem.recipe.search.batch_size,
        seed=problem.request.seed,
        workers=problem.compute.workers,
        rank=rank(),
        world=world_size(),
        device=problem.precision.device,
    )
    run_loop(
        task,
        lambda start: batches(start_step=start, steps=steps - start),
        problem.loop_settings("search", steps, shared),
        problem.compute.progress,
    )


def recalibration_batches(problem: SearchProblem) -> Iterator[Batch]:
    """Returns the training batches that batch norms are recalibrated on, the same at every call."""
    assert problem.data is not None
    return train_batches(
        problem.data,
        image_size=problem.image_size,
        batch_size=problem.recipe.search.batch_size,
        seed=step_seed(problem.request.seed, 0, "recalibration"),
        start_step=0,
        steps=problem.cap(problem.recipe.recalibration_batches),
        workers=problem.compute.workers,
    )
