"""What every search method promises, whichever it is."""

from __future__ import annotations

import pytest
import torch
from search_problems import garments, make_problem, paper_network, small_network

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.cost import Cost
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.registry import METHODS
from dmcp_deploy.search import uniform
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.run import find_method, search_plan

ALIGN = 8


def problem_for(folder, seed: int = 0) -> SearchProblem:
    return make_problem(
        small_network(),
        folder,
        share=0.4,
        align=ALIGN,
        data=garments(),
        max_steps=3,
        seed=seed,
    )


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("method", METHODS)
class TestContract:
    def test_the_budget_is_met_by_valid_widths(self, method, tmp_path):
        problem = problem_for(tmp_path)
        widths = find_method(method).search(problem).channels()
        groups = {group.name: group for group in problem.network.prunable}
        assert widths.keys() == groups.keys()
        for name, width in widths.items():
            assert isinstance(width, int)
            assert 1 <= width <= groups[name].size
            assert width % groups[name].unit == 0
            assert groups[name].size <= ALIGN or width % ALIGN == 0
        assert 0.98 <= problem.cost.macs_at(widths) / problem.budget_macs <= 1.0

    def test_its_plan_slices(self, method, tmp_path):
        problem = problem_for(tmp_path)
        plan, result = search_plan(method, problem, ALIGN)
        assert plan.widths() == {**problem.network.sizes(), **result.channels()}
        dense = slice_network(problem.network, plan.groups)
        assert sum(p.numel() for p in dense.parameters()) == plan.params
        assert dense.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)

    def test_the_same_seed_gives_the_same_widths(self, method, tmp_path):
        first, second = (
            find_method(method).search(problem_for(tmp_path / name, seed=3)).widths
            for name in ("a", "b")
        )
        assert first == second

    def test_the_network_keeps_its_structure(self, method, tmp_path):
        problem = problem_for(tmp_path)
        model = problem.network.model
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        types = [(name, type(module)) for name, module in model.named_modules()]
        parameters = list(model.parameters())
        trained = find_method(method).search(problem).trained
        assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
        assert [(name, type(module)) for name, module in model.named_modules()] == types
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        assert all(parameter.requires_grad for parameter in parameters)
        fresh = small_network().model.state_dict()
        same = all(torch.equal(model.state_dict()[name], fresh[name]) for name in fresh)
        assert same is not trained


@pytest.mark.parametrize("name", ["dcmp", "Uniform", ""])
def test_an_unknown_method_is_told_the_known_ones(name):
    with pytest.raises(DmcpError, match=r"choose one of .*dmcp, .*uniform"):
        find_method(name)


@pytest.mark.parametrize(
    ("multiplier", "macs"), [(0.75, 2_322_677_760), (0.5, 1_052_311_552), (0.25, 278_085_632)]
)
def test_uniform_scales_every_group_by_one_multiplier(multiplier, macs, tmp_path):
    network = paper_network("resnet50")
    share = macs / Cost(network).full_macs
    problem = make_problem(network, tmp_path, share=share, budget_macs=macs)
    widths = uniform.search(problem).widths
    assert widths == {g.name: round(multiplier * g.size) for g in network.prunable}
    assert problem.cost.macs_at(widths) == macs


def test_uniform_differs_from_one_multiplier_by_steps_of_the_grid_alone(tmp_path):
    network = paper_network("mobilenet_v2")
    for align in (1, 8):
        problem = make_problem(network, tmp_path, budget_macs=211_000_000, align=align)
        widths = uniform.search(problem).widths
        shares = [widths[g.name] / g.size for g in network.prunable if g.size >= 16 * align]
        assert max(shares) - min(shares) <= 1 / 16
        assert 0.98 <= problem.cost.macs_at(widths) / problem.budget_macs <= 1.0
