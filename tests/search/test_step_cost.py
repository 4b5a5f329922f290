"""What a step computes: the sampled networks and no more, in numbers of multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import assert_same
from search_problems import make_problem, small_network
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.models import build_network
from dmcp_deploy.network.selection import Borrowed
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.search.dmcp import DmcpTask
from dmcp_deploy.search.problem import SearchProblem

IMAGES = 4
CONVOLUTION, BACKWARD = torch.ops.aten.convolution, torch.ops.aten.convolution_backward


def noise(side: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(IMAGES, 3, side, side, generator=generator), torch.arange(IMAGES))


def counted(work: Callable[[], object]) -> dict[Any, int]:
    """Returns the multiply-adds of some work by operation."""
    with FlopCounterMode(display=False) as counter:
        work()
    return {kind: flops // 2 for kind, flops in counter.get_flop_counts()["Global"].items()}


def convolution_macs(problem: SearchProblem, widths: dict[str, int]) -> int:
    """Multiply-adds of one forward pass; the counter does not tell those of linear layers."""
    costs = problem.accounting.layer_costs(widths)
    return IMAGES * sum(cost.macs for cost in costs if cost.kind == "conv")


@pytest.fixture(params=["small", "resnet18"])
def problem(request: pytest.FixtureRequest, tmp_path: Path) -> SearchProblem:
    if request.param == "small":
        return make_problem(small_network(), tmp_path)
    return make_problem(build_network(NetworkSpec("resnet18", 1.0, 10, (3, 32, 32))), tmp_path)


def test_a_sandwich_step_runs_the_full_network_once_and_the_others_at_their_widths(problem):
    task = DmcpTask(problem, steps=1000)
    batch = noise()
    networks = [problem.space.widths(units) for units in task._weights.networks(3)]
    wanted = sum(convolution_macs(problem, widths) for widths in [{}, *networks])
    assert len(networks) == 3
    assert wanted < 3.5 * convolution_macs(problem, {})
    assert counted(lambda: task.step(3, batch))[CONVOLUTION] == wanted


def test_its_backward_passes_compute_two_products_for_each_of_the_forward_ones(tmp_path):
    # A network without depthwise convolutions, whose backward pass torch's counter overrates.
    network = build_network(NetworkSpec("resnet18", 1.0, 10, (3, 32, 32)))
    problem = make_problem(network, tmp_path)
    task = DmcpTask(problem, steps=1000)
    counts = counted(lambda: task.step(3, noise()))
    # But for the first layer, whose images need no gradient.
    assert 1.8 < counts[BACKWARD] / counts[CONVOLUTION] <= 2.0


@contextmanager
def weight_gradients() -> Iterator[list[tuple[int, ...]]]:
    """Yields the shapes of convolution weights whose gradient is computed in the block."""
    from torch.utils._python_dispatch import TorchDispatchMode

    shapes: list[tuple[int, ...]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.ops.aten.convolution_backward.default and args[-1][1]:
                shapes.append(tuple(args[2].shape))
            return func(*args, **(kwargs or {}))

    with Watch():
        yield shapes


def test_an_architecture_step_computes_no_gradient_of_a_weight_and_moves_none(problem):
    task = DmcpTask(problem, steps=2)
    with torch.no_grad():
        task.architecture.alphas.fill_(0.1)
    before = {name: t.clone() for name, t in problem.network.model.state_dict().items()}
    alphas = task.architecture.alphas.detach().clone()
    with weight_gradients() as shapes:
        task._architecture_step(1, noise())
    assert shapes == []
    assert all(p.grad is None for p in problem.network.model.parameters())
    after = problem.network.model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not torch.equal(task.architecture.alphas, alphas)


def test_a_weight_step_does_compute_them(problem):
    task = DmcpTask(problem, steps=2)
    with weight_gradients() as shapes:
        task.step(0, noise())
    convolutions = [c for c in problem.accounting.layer_costs({}) if c.kind == "conv"]
    assert len(shapes) == 4 * len(convolutions)


def test_an_architecture_step_multiplies_what_one_pass_of_the_full_network_does(problem):
    task = DmcpTask(problem, steps=2)
    counts = counted(lambda: task._architecture_step(1, noise()))
    assert counts[CONVOLUTION] == convolution_macs(problem, {})
    assert counts[BACKWARD] <= counts[CONVOLUTION]


def gradients(problem: SearchProblem, keeps: dict[str, int], *, lend: bool) -> dict[str, Tensor]:
    model = problem.network.model
    model.train().zero_grad()
    borrowed = Borrowed() if lend else None
    torch.manual_seed(0)
    Supernet(problem.network)(noise().images, keeps, borrowed=borrowed).logsumexp(
        1
    ).sum().backward()
    if borrowed is not None:
        borrowed.hand_back()
    # What no part of was lent has none.
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()
    }


def test_borrowed_weights_hand_back_the_gradients_that_autograd_pads(problem):
    keeps = problem.space.widths(problem.space.minimum)
    lent, padded = (gradients(problem, keeps, lend=lend) for lend in (True, False))
    assert lent.keys() == padded.keys()
    for name, gradient in lent.items():
        assert torch.equal(gradient, padded[name]), name
        assert gradient.abs().sum() > 0, name


def test_borrowed_gradients_add_up_over_passes(problem):
    model = problem.network.model.train()
    keeps = problem.space.widths(problem.space.minimum)
    single = {n: g.clone() for n, g in gradients(problem, keeps, lend=True).items()}
    model.zero_grad()
    for _ in range(2):
        borrowed = Borrowed()
        torch.manual_seed(0)
        logits = Supernet(problem.network)(noise().images, keeps, borrowed=borrowed)
        logits.logsumexp(1).sum().backward()
        borrowed.hand_back()
    for name, parameter in model.named_parameters():
        assert_same(parameter.grad, 2 * single[name], about=name)
