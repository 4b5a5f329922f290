"""The sandwich rule's gradient against plain autograd on sliced copies."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings, difference
from search_problems import FP32, small_network
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.sandwich import sandwich_gradients

SMOOTHING = 0.1


def some_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8))


def narrow_widths(network: Network) -> list[dict[str, int]]:
    """Every group at its own share, in two ways."""
    shares = [(1 + number % 4) / 5 for number in range(len(network.prunable))]
    return [
        {g.name: max(1, int(s * g.size)) for g, s in zip(network.prunable, row, strict=True)}
        for row in (shares, shares[::-1])
    ]


def by_hand(
    network: Network, batch: Batch, narrow: list[dict[str, int]]
) -> tuple[dict[str, Tensor], list[float]]:
    """Returns the summed gradients and the losses of one full copy and of sliced copies."""
    full = copy.deepcopy(network.model).train()
    logits = full(batch.images)
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=SMOOTHING)
    loss.backward()
    total = {name: p.grad.clone() for name, p in full.named_parameters()}
    losses = [float(loss.detach())]
    teacher = F.softmax(logits.detach(), dim=1)
    for widths in narrow:
        dense = slice_network(network, widths).train()
        log_student = F.log_softmax(dense(batch.images), dim=1)
        loss = (teacher * (teacher.log() - log_student)).sum(1).mean()
        loss.backward()
        losses.append(float(loss.detach()))
        for name, parameter in dense.named_parameters():
            leading = tuple(slice(0, size) for size in parameter.shape)
            total[name][leading] += parameter.grad
    return total, losses


def both_ways(network: Network, batch: Batch) -> int:
    """Returns the roundings behind a gradient: there, back, and a sum over all pixels."""
    return 2 * count_roundings(network.model) + batch.images[:, 0].numel()


def sandwich(network: Network, batch: Batch, narrow: list[dict[str, int]], precision: Precision):
    network.model.zero_grad()
    supernet = Supernet(network).train()
    return sandwich_gradients(supernet, batch, narrow, SMOOTHING, precision)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_gradients_are_the_sum_over_full_and_sliced_networks(count):
    network, batch = small_network(), some_batch()
    narrow = narrow_widths(network)[:count]
    expected, losses = by_hand(network, batch, narrow)
    figures = sandwich(network, batch, narrow, FP32)
    roundings = both_ways(network, batch)
    for name, parameter in network.model.named_parameters():
        assert_same(parameter.grad, expected[name], roundings=roundings, about=name)
    assert_same(figures["loss"], losses[0], roundings=roundings)
    assert_same(figures["distill"], sum(losses[1:]) / max(1, count), roundings=roundings)


def test_channels_that_a_narrow_network_lacks_learn_from_the_full_one_alone():
    network, batch = small_network(), some_batch()
    narrow = narrow_widths(network)[:1]
    alone, _ = by_hand(network, batch, [])
    sandwich(network, batch, narrow, FP32)
    kept = narrow[0]["last.0"]
    gradient = network.model.get_parameter("last.0.weight").grad
    roundings, alone = both_ways(network, batch), alone["last.0.weight"]
    assert_same(gradient[kept:], alone[kept:], roundings=roundings)
    assert difference(gradient[:kept], alone[:kept]) > 0.01


def test_running_statistics_stay_as_they_are():
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.model.named_buffers()}
    sandwich(network, some_batch(), narrow_widths(network), FP32)
    for name, tensor in network.model.named_buffers():
        assert torch.equal(tensor, before[name])


def test_bf16_comes_near():
    network, batch = small_network(), some_batch()
    narrow = narrow_widths(network)
    exact, losses = by_hand(network, batch, narrow)
    figures = sandwich(network, batch, narrow, Precision(torch.device("cpu"), bf16=True))
    assert figures["loss"] == pytest.approx(losses[0], rel=0.05)
    head = network.model.get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    assert head.weight.grad.dtype == torch.float32
    similarity = F.cosine_similarity(
        head.weight.grad.flatten(), exact["classifier.weight"].flatten(), 0
    )
    assert similarity > 0.95
