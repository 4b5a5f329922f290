"""Training of pruned networks: one step by hand, learning on real images, both tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings
from search_problems import FP32, garments, small_network, some_batch
from torch import nn
from training_tasks import batches_from, settings, small_model

from dmcp_deploy.data.loader import train_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.training.dense import DenseTask, DistillTask
from dmcp_deploy.training.evaluate import evaluate, recalibrate
from dmcp_deploy.training.loop import run_loop
from dmcp_deploy.training.precision import Precision, choose_precision
from dmcp_deploy.training.recipe import Recipe, Schedule
from dmcp_deploy.training.task import set_lr, weight_optimizer

RECIPE = Recipe(
    name="test",
    search=Schedule(1, 16, 0.05, 0.1, 0.0, 0.0, 0.0),
    train=Schedule(1, 16, 0.05, 0.1, 0.0, 0.2, 0.01),
)


def one_batch() -> Batch:
    return next(batches_from(0))


def test_weight_decay_is_for_kernels_alone():
    model = small_model()
    optimizer = weight_optimizer(model, RECIPE.train)
    decayed, others = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert {p.ndim for p in others["params"]} == {1}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_a_step_is_that_of_sgd_with_nesterov_momentum():
    # Dropout draws in the order of memory, so that the reference is placed alike.
    model, reference = small_model(), FP32.place(small_model()).train()
    task = DenseTask(model, RECIPE, steps=10, precision=FP32)
    batch = FP32.move(one_batch())
    torch.manual_seed(0)
    figures = task.step(0, batch)
    torch.manual_seed(0)
    logits = reference(batch.images)
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    loss.backward()
    roundings = 2 * count_roundings(model) + batch.images[:, 0].numel()
    assert_same(figures["loss"], loss, roundings=roundings)
    assert figures["lr"] == 0.05
    assert figures["top1"] == pytest.approx(
        float((logits.argmax(1) == batch.labels).float().mean())
    )
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        gradient = theirs.grad + (0.01 * theirs.detach() if theirs.ndim > 1 else 0)
        expected = theirs.detach() - 0.05 * (1 + 0.9) * gradient
        assert_same(ours, expected, roundings=roundings)


def test_the_learning_rate_follows_the_schedule(tmp_path):
    task = DenseTask(small_model(), RECIPE, steps=10, precision=FP32)
    rates = [task.step(step, batch)["lr"] for step, batch in enumerate(batches_from(0, 10))]
    assert rates == [RECIPE.train.lr_at(step, 10) for step in range(10)]


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_few_steps_on_real_images_are_learnt_from(bf16, tmp_path):
    torch.manual_seed(0)
    model = small_network().model
    precision = Precision(torch.device("cpu"), bf16)
    task = DenseTask(model, RECIPE, steps=12, precision=precision)
    batch = some_batch(32)
    before = evaluate(model, [batch], precision)
    for step in range(12):
        task.step(step, batch)
    recalibrate(model, [batch], precision)
    after = evaluate(model, [batch], precision)
    assert after.loss < 0.6 * before.loss
    assert after.top1 > before.top1 + 0.3
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.usefixtures("fashion_mnist")
def test_distillation_trains_both_networks_on_shared_weights(tmp_path):
    network = small_network()
    widths = {group.name: max(1, group.size // 2) for group in network.prunable}
    task = DistillTask(Supernet(network), widths, RECIPE, steps=25, precision=FP32)

    def batches(start: int):
        return train_batches(
            garments(), image_size=32, batch_size=16, seed=0, start_step=start, steps=25 - start
        )

    own = settings(tmp_path, steps=25)
    dense_before = slice_network(network, widths)
    run_loop(task, batches, replace(own, checkpoint_s=3600.0))
    dense = slice_network(network, widths)
    probe = [some_batch(64, step=40)]
    for net in (dense_before, dense, network.model):
        recalibrate(net, [some_batch(64, step=step) for step in (41, 42)], FP32)
    losses = [evaluate(net, probe, FP32).loss for net in (dense_before, dense, network.model)]
    assert losses[1] < 0.85 * losses[0]
    assert losses[2] < 0.85 * losses[0]


def test_what_is_saved_brings_a_task_back():
    task, other = (DenseTask(small_model(s), RECIPE, steps=10, precision=FP32) for s in (0, 1))
    task.step(0, one_batch())
    other.load({name: tensor.clone() for name, tensor in task.tensors().items()})
    for one in (task, other):
        torch.manual_seed(3)
        one.step(1, one_batch())
    ours, theirs = task.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sum("momentum" in name for name in ours) == len(list(small_model().parameters()))


def test_models_are_placed_with_channels_last():
    model = FP32.place(nn.Sequential(nn.Conv2d(3, 4, 3)))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    moved = FP32.move(one_batch())
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.labels, one_batch().labels)


def test_precision_is_chosen_by_name():
    assert choose_precision("cpu", "fp32") == FP32
    assert choose_precision("cpu", "bf16").bf16
    assert choose_precision("auto", "fp32").device.type in {"cpu", "cuda"}
    with choose_precision("cpu", "bf16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with FP32.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "mode", "told"),
    [
        ("cpu", "fp16", "auto, fp32, bf16"),
        ("gpu", "auto", "auto, cpu or cuda"),
        ("meta", "auto", "auto, cpu or cuda"),
        ("cuda:99", "auto", "torch finds"),
    ],
)
def test_devices_and_modes_that_are_not_there_are_refused(device, mode, told):
    with pytest.raises(DmcpError, match=told):
        choose_precision(device, mode)
