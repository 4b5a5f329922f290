"""Plans judged on the trained supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from search_problems import garments, make_problem, small_network

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.search.judging import plan_loss, supernet_loss
from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.search.steps import training_batches
from dmcp_deploy.search.temperature import scaled_cross_entropy

pytestmark = pytest.mark.usefixtures("fashion_mnist")


@pytest.fixture
def problem(tmp_path) -> SearchProblem:
    return make_problem(small_network(), tmp_path, share=0.5, data=garments())


def half(problem: SearchProblem) -> np.ndarray:
    return problem.grid.nearest(problem.space.full * 0.5)


def test_the_loss_is_that_of_the_dense_network_on_the_statistics_of_batches(problem):
    units, batches = half(problem), list(training_batches(problem, 0, 3, augment=False))
    dense = slice_network(problem.network, problem.space.widths(units)).train()
    with torch.no_grad():
        logits = torch.cat([dense(batch.images) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    wanted = float(scaled_cross_entropy(logits, labels)) / len(labels)
    assert plan_loss(problem, units, batches) == pytest.approx(wanted, rel=1e-5)


def test_the_scale_of_the_last_layer_does_not_count(problem):
    units, batches = half(problem), list(training_batches(problem, 0, 2, augment=False))
    *_, last = (m for m in problem.network.model.modules() if isinstance(m, torch.nn.Linear))
    learn(problem, last, batches)
    before = plan_loss(problem, units, batches)
    with torch.no_grad():
        last.weight.mul_(3.0)
        last.bias.mul_(3.0)
    assert plan_loss(problem, units, batches) == pytest.approx(before, rel=1e-5)


def test_judging_leaves_the_network_as_it_was(problem):
    before = {name: t.clone() for name, t in problem.network.model.state_dict().items()}
    problem.network.model.train()
    supernet_loss(problem, half(problem))
    assert problem.network.model.training
    for name, tensor in problem.network.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def learn(problem: SearchProblem, last: torch.nn.Linear, batches: list[Batch]) -> None:
    """Trains the last layer at half the widths, so that its logits tell something."""
    supernet, widths = Supernet(problem.network).train(), problem.space.widths(half(problem))
    optimizer = torch.optim.SGD(last.parameters(), lr=0.5)
    for batch in batches * 10:
        optimizer.zero_grad()
        F.cross_entropy(supernet(batch.images, widths), batch.labels).backward()
        optimizer.step()
