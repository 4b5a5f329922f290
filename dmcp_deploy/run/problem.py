"""A run's request as the search problem that every method takes."""

from __future__ import annotations

from dmcp_deploy.run.context import RunContext
from dmcp_deploy.run.networks import drop_nothing
from dmcp_deploy.run.start import starting_network
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import plan_problem


def search_problem(context: RunContext) -> SearchProblem:
    """Returns the search problem of a run, with the full network as the search starts from it.

    Raises:
        DmcpError: Given weights cannot be had, or the budget cannot be reached.
    """
    network, given = starting_network(context)
    if not context.recipe.search_dropout:
        drop_nothing(context, network)
    accounting, space, grid, limits = plan_problem(
        network, context.budgets, context.request.align, context.recipe
    )
    return SearchProblem(
        network=network,
        accounting=accounting,
        space=space,
        grid=grid,
        limits=limits,
        data=context.data.images,
        recipe=context.recipe,
        request=context.request,
        compute=context.compute,
        precision=context.precision,
        folder=context.run.path,
        pretrained=given,
    )
