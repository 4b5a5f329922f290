"""What every search method promises, whichever it is, on networks of different kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from attention_nets import Attention
from constant_nets import HalvesOfGroups, Hierarchy
from search_problems import (
    asked_macs,
    fresh_network,
    macs_limits,
    make_problem,
    noise_data,
    paper_network,
    small_network,
)
from tiny_nets import Dense, Residual, Separable, trace_tiny
from torch import Tensor, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.slice import TOLERANCE, slice_proven
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.graph import Network
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.registry import METHODS
from dmcp_deploy.search.baselines import search_uniform
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.costs.params import ParamsCost
from dmcp_deploy.search.problem import SearchProblem, SearchResult, channel_counts
from dmcp_deploy.search.run import find_method, make_plan, search_plan

SEED = 3


@dataclass(frozen=True)
class Case:
    """A network, what widths are multiples of, and the share of each group that costs the budget.

    The share need not be a plan of any method: it makes sure that some plan meets the budget.
    """

    network: Callable[[], Network]
    align: int
    share: float
    steps: int = 3

    def problem(self, folder: Path) -> SearchProblem:
        network = self.network()
        cost, side = NetworkCost(network), network.spec.input_shape[-1]
        widths = {g.name: self._width(g.size) for g in network.prunable}
        return make_problem(
            network,
            folder,
            align=self.align,
            budget_macs=cost.macs_at(widths),
            data=noise_data(network.spec.num_classes),
            max_steps=self.steps,
            seed=SEED,
            train_size=max(16, side),
        )

    def _width(self, size: int) -> int:
        return size if size <= self.align else round(self.share * size / self.align) * self.align


def stock(model: str) -> Callable[[], Network]:
    return lambda: fresh_network(NetworkSpec(model, 1.0, 10, (3, 64, 64)))


CASES = {
    "small MobileNet": Case(small_network, align=8, share=0.6),
    "residual sums": Case(lambda: trace_tiny(Residual), align=2, share=0.6),
    "concatenation": Case(lambda: trace_tiny(Dense), align=2, share=0.5),
    "squeeze and excite": Case(lambda: trace_tiny(Separable), align=2, share=0.6),
    "parts of a layer": Case(lambda: trace_tiny(Hierarchy), align=1, share=0.7),
    "heads": Case(lambda: trace_tiny(Attention), align=1, share=0.75),
    "halves of groups": Case(lambda: trace_tiny(HalvesOfGroups), align=1, share=0.6),
}
STOCK = {
    "MobileNetV2": Case(stock("mobilenet_v2"), align=8, share=0.6, steps=2),
    "ResNet-18": Case(stock("resnet18"), align=8, share=0.6, steps=2),
}


@dataclass(frozen=True)
class Found:
    """A search that is over, and what its network was like before."""

    problem: SearchProblem
    plan: ChannelPlan
    result: SearchResult
    before: Mapping[str, Tensor]
    parts: tuple[object, ...]


def find(method: str, case: Case, folder: Path) -> Found:
    problem = case.problem(folder)
    model = problem.network.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = structure(model)
    plan, result = search_plan(method, problem, case.align)
    return Found(problem, plan, result, before, parts)


def structure(model: nn.Module) -> tuple[object, ...]:
    modules = [(name, type(module)) for name, module in model.named_modules()]
    return (modules, [(name, id(tensor)) for name, tensor in model.named_parameters()])


#: Searches of stock networks that take long for what they show on another one as well.
LONG = {("ResNet-18", "metapruning"), ("ResNet-18", "amc")}


def marks(case: str, method: str) -> list[pytest.MarkDecorator]:
    if case in CASES:
        return []
    nightly = pytest.mark.nightly("half a minute; the method searches MobileNetV2 every time")
    return [pytest.mark.slow, *([nightly] if (case, method) in LONG else [])]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((case, method), id=f"{case}-{method}", marks=marks(case, method))
        for case in (*CASES, *STOCK)
        for method in METHODS
    ],
)
def asked(request: pytest.FixtureRequest) -> tuple[str, Case]:
    """A method and what it is to search."""
    case, method = request.param
    return method, {**CASES, **STOCK}[case]


@pytest.fixture(scope="module")
def found(asked: tuple[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Found:
    return find(*asked, tmp_path_factory.mktemp("search"))


class TestContract:
    def test_the_budget_is_met_by_valid_widths(self, asked, found):
        align, widths = asked[1].align, found.result.channels()
        groups = {group.name: group for group in found.problem.network.prunable}
        assert widths.keys() == groups.keys()
        for name, width in widths.items():
            assert isinstance(width, int)
            assert 1 <= width <= groups[name].size
            assert width % groups[name].unit == 0
            assert groups[name].size <= align or width % align == 0 or width == groups[name].size
        assert 0.98 <= found.problem.accounting.macs_at(widths) / asked_macs(found.problem) <= 1.0

    def test_its_plan_slices_to_what_the_supernet_computes(self, found):
        network, plan = found.problem.network, found.plan
        assert plan.widths() == {**network.sizes(), **found.result.channels()}
        images = torch.randn(2, *network.spec.input_shape)
        model = network.model.cpu()
        dense, parity = slice_proven(network, plan, images)
        assert parity.max_rel <= TOLERANCE
        assert (
            sum(p.numel() for p in dense.parameters())
            == plan.params
            < sum(p.numel() for p in model.parameters())
        )
        assert dense(images).shape == (2, network.spec.num_classes)

    def test_the_same_seed_gives_the_same_widths(self, asked, found, tmp_path):
        again = find(*asked, tmp_path)
        assert again.result.widths == found.result.widths
        assert again.plan == found.plan

    def test_the_network_keeps_its_structure(self, found):
        model = found.problem.network.model
        after = model.state_dict()
        assert structure(model) == found.parts
        assert {k: v.shape for k, v in after.items()} == {
            k: v.shape for k, v in found.before.items()
        }
        assert all(parameter.requires_grad for parameter in model.parameters())
        same = all(torch.equal(after[name], found.before[name]) for name in after)
        assert same is not found.result.trained


@pytest.mark.parametrize(("case", "align"), [("small MobileNet", 8), ("concatenation", 1)])
@pytest.mark.parametrize("method", METHODS)
def test_two_budgets_hold_at_once_whichever_binds_and_after_decoding_anew(
    method, case, align, tmp_path
):
    problem = replace(CASES[case], align=align).problem(tmp_path)
    loose, tight = (two_limits(problem, *shares) for shares in ((0.7, 0.4), (0.4, 0.7)))
    problem = replace(problem, limits=loose)
    plan, result = search_plan(method, problem, align)
    (other,) = plan.limits
    assert (other.quantity, other.value) == ("parameters", plan.params)
    assert plan.macs <= plan.budget_macs
    assert other.value <= other.most
    before = {k: tensor.clone() for k, tensor in problem.network.model.state_dict().items()}
    for limits in (tight, loose):
        anew = replace(result, widths=result.decode(limits))
        units = problem.accounting.units(anew.channels())
        assert all(limit.share(units) <= 1.0 for limit in limits.limits)
        assert limits.share(units) >= 0.95
        assert (anew.widths == result.widths) is (limits is loose)
        plan = make_plan(replace(problem, limits=limits), anew.widths, method, align)
        images = torch.randn(2, *problem.network.spec.input_shape)
        assert slice_proven(problem.network, plan, images)[1].max_rel <= TOLERANCE
    after = problem.network.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_plans_that_were_judged_are_found_anew_for_other_budgets(tmp_path):
    problem = CASES["small MobileNet"].problem(tmp_path)
    tight = two_limits(problem, 0.4, 0.7)
    problem = replace(problem, request=replace(problem.request, sampling="markov"))
    result = find_method("dmcp")(problem)
    assert result.decode(problem.limits) == result.widths
    units = problem.accounting.units(channel_counts(result.decode(tight)))
    assert 0.98 <= tight.share(units) <= 1.0


def two_limits(problem: SearchProblem, macs: float, params: float) -> Limits:
    """Limits at shares of what lies between the narrowest plan and the widest."""
    limits = []
    for cost in (MacsCost, ParamsCost):
        made = cost(problem.accounting, problem.space)
        low, high = made.at(problem.grid.low), made.at(problem.grid.high)
        share = macs if cost is MacsCost else params
        limits.append(Limit(made, int(low + share * (high - low)), f"{share}"))
    return Limits(tuple(limits))


@pytest.mark.parametrize("method", METHODS)
def test_for_the_whole_budget_the_whole_network_is_kept(method, tmp_path):
    # One of its groups has 6 channels, of which 4 do not divide.
    case = Case(lambda: trace_tiny(Residual), align=4, share=1.0)
    problem = case.problem(tmp_path)
    problem = replace(problem, limits=macs_limits(problem.network, sum(Residual.truth.macs)))
    widths = find_method(method)(problem).channels()
    assert widths == {group.name: group.size for group in problem.network.prunable}


@pytest.mark.parametrize("name", ["dcmp", "Uniform", ""])
def test_an_unknown_method_is_told_the_known_ones(name):
    with pytest.raises(DmcpError, match=r"choose one of .*dmcp, .*uniform"):
        find_method(name)


@pytest.mark.parametrize(
    ("multiplier", "macs"), [(0.75, 2_322_677_760), (0.5, 1_052_311_552), (0.25, 278_085_632)]
)
def test_uniform_scales_every_group_by_one_multiplier(multiplier, macs, tmp_path):
    network = paper_network("resnet50")
    share = macs / NetworkCost(network).full_macs
    problem = make_problem(network, tmp_path, share=share, budget_macs=macs)
    widths = search_uniform(problem).widths
    assert widths == {g.name: round(multiplier * g.size) for g in network.prunable}
    assert problem.accounting.macs_at(widths) == macs


def test_uniform_differs_from_one_multiplier_by_steps_of_the_grid_alone(tmp_path):
    network = paper_network("mobilenet_v2")
    for align in (1, 8):
        problem = make_problem(network, tmp_path, budget_macs=211_000_000, align=align)
        widths = search_uniform(problem).widths
        shares = [widths[g.name] / g.size for g in network.prunable if g.size >= 16 * align]
        assert max(shares) - min(shares) <= 1 / 16
        assert 0.98 <= problem.accounting.macs_at(widths) / asked_macs(problem) <= 1.0
