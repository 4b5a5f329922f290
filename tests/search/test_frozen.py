"""Parameters that a user has frozen: the same bits behind every search and every training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from search_problems import fresh_network, make_problem, noise_data
from torch import Tensor, nn
from weight_nets import FixedStatistics, Frozen, fixed_filters

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.registry import METHODS
from dmcp_deploy.search.run import find_method
from dmcp_deploy.training.dense import DenseTask, DistillTask
from dmcp_deploy.training.evaluate import recalibrate
from dmcp_deploy.training.precision import choose_precision
from dmcp_deploy.training.recipe import RECIPES

CPU = choose_precision("cpu", "fp32")
SPEC = NetworkSpec("weight_nets:Frozen", 1.0, 3, (3, 32, 32))


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}


def moved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])]


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(torch.randn(6, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2] * 2))
        for _ in range(count)
    ]


@pytest.mark.parametrize("frozen", ["first", "second"])
@pytest.mark.parametrize("method", METHODS)
def test_no_search_moves_them(method: str, frozen: str, tmp_path: Path) -> None:
    network = fresh_network(NetworkSpec("weight_nets:plain", 1.0, 3, (3, 32, 32)), 0)
    model, (other,) = network.model, {"first", "second"} - {frozen}
    for layer in (frozen, f"{frozen}_norm"):
        model.get_submodule(layer).requires_grad_(False)
    before = frozen_tensors(model)
    trained = model.get_submodule(other).weight
    others = trained.detach().clone()
    problem = make_problem(
        network, tmp_path, share=0.5, data=noise_data(3), max_steps=4, seed=1, train_size=32
    )
    result = find_method(method)(problem)
    assert len(before) == 3
    assert moved(model, before) == []
    assert before.keys() == frozen_tensors(model).keys()
    assert torch.equal(trained, others) != result.trained


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_no_training_of_the_pruned_network_moves_them(distill: bool, ema_decay: float) -> None:
    network = fresh_network(SPEC, 0)
    keeps = {"first": 8, "second": 12}
    recipe = RECIPES["small"]
    recipe = type(recipe)(**{**vars(recipe), "ema_decay": ema_decay})
    if distill:
        task = DistillTask(Supernet(network), keeps, recipe, 3, CPU)
        model = network.model
    else:
        model = slice_network(network, keeps)
        task = DenseTask(model, recipe, 3, CPU)
    before, others = frozen_tensors(model), model.second.weight.detach().clone()
    for step, batch in enumerate(batches(3)):
        task.step(step, batch)
    task.finish()
    assert moved(model, before) == []
    assert not torch.equal(model.second.weight, others)


def test_their_channels_can_go() -> None:
    dense = slice_network(fresh_network(SPEC, 0), {"first": 5})
    assert torch.equal(dense.first.weight, fixed_filters()[:5])
    assert not dense.first.weight.requires_grad


@pytest.mark.parametrize(("fixed", "moves"), [(Frozen, True), (FixedStatistics, False)])
def test_statistics_stay_where_the_model_keeps_the_norm_in_evaluation_mode(
    fixed: type[nn.Module], moves: bool
) -> None:
    model = fixed(3)
    before = model.first_norm.running_mean.clone()
    recalibrate(model, batches(2), CPU)
    assert torch.equal(model.first_norm.running_mean, before) != moves
    assert not torch.equal(model.second_norm.running_mean, torch.zeros(24))
