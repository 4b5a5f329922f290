"""A run's request as the search problem that every method takes."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.network.graph import Network
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import plan_problem


def search_problem(context: RunContext, network: Network) -> SearchProblem:
    """Returns the search problem of a run.

    Args:
        context: The run.
        network: The full network, with the weights that the search starts from.

    Raises:
        DmcpError: The budget cannot be reached.
    """
    request, compute = context.request, context.compute
    cost, space, grid, budget_macs = plan_problem(
        network, context.budget, request.align, context.recipe
    )
    return SearchProblem(
        network=network,
        cost=cost,
        space=space,
        grid=grid,
        budget_macs=budget_macs,
        data=context.data.images,
        recipe=context.recipe,
        seed=request.seed,
        folder=context.run.path,
        sampling=request.sampling,
        precision=context.precision,
        token=request.token(),
        shared_token=request.shared().token(),
        supernet=None if compute.supernet is None else Path(compute.supernet),
        pretrained=request.weights is not None,
        max_steps=request.max_steps,
        workers=compute.workers,
        checkpoint_s=compute.checkpoint_s,
        tensorboard=compute.tensorboard,
        progress=compute.progress,
    )
