"""Batch-norm recalibration against averages made by hand; accuracy against counting."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings
from search_problems import FP32, noise_data
from torch import Tensor, nn

from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.evaluate import evaluate, recalibrate, running_statistics
from dmcp_deploy.training.precision import Precision


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def batches(count: int = 5) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    sizes = [8, 8, 3, 8, 5]
    return [
        Batch(
            (1 + number) * torch.randn(size, 3, 12, 12, generator=generator) + number,
            torch.randint(3, (size,), generator=generator),
        )
        for number, size in enumerate(sizes[:count])
    ]


def average(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the averages over batches of their means and of their unbiased variances."""
    means = torch.stack([v.mean((0, 2, 3)) for v in values]).mean(0)
    variances = torch.stack([v.var((0, 2, 3), unbiased=True) for v in values]).mean(0)
    return means, variances


@torch.no_grad()
def norm_inputs(net: nn.Sequential) -> tuple[list[Tensor], list[Tensor]]:
    """What each norm reads when both use the statistics of the batch, without dropout."""
    first = [net[0](batch.images) for batch in batches()]
    between = [
        F.relu(F.batch_norm(x, None, None, net[1].weight, net[1].bias, training=True))
        for x in first
    ]
    return first, [net[4](x) for x in between]


def test_statistics_become_the_exact_average_over_batches():
    net = model()
    net[1].running_mean.fill_(50.0)
    inputs = norm_inputs(net)
    recalibrate(net, batches(), FP32)
    for norm, values in zip((net[1], net[5]), inputs, strict=True):
        mean, variance = average(values)
        roundings = count_roundings(net) + sum(v[:, 0].numel() for v in values)
        assert_same(norm.running_mean, mean, roundings=roundings)
        assert_same(norm.running_var, variance, roundings=roundings)


def test_doing_it_twice_makes_no_difference():
    net = model()
    recalibrate(net, batches(), FP32)
    once = {name: tensor.clone() for name, tensor in net.named_buffers()}
    recalibrate(net, batches(), FP32)
    assert all(torch.equal(tensor, once[name]) for name, tensor in net.named_buffers())


def test_it_changes_statistics_alone():
    net = model()
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    recalibrate(net, batches(), FP32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.named_parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert (net[1].momentum, net[5].momentum) == (0.1, 0.3)


def failing_batches():
    yield batches()[0]
    raise DmcpError("A picture cannot be read.")


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("action", [recalibrate, evaluate])
def test_modes_of_all_modules_are_restored(action, failing):
    net = model().train()
    net[5].eval()
    modes = [module.training for module in net.modules()]
    if failing:
        with pytest.raises(DmcpError):
            action(net, failing_batches(), FP32)
    else:
        action(net, batches(), FP32)
    assert [module.training for module in net.modules()] == modes
    assert net[1].momentum == 0.1


def test_norms_that_keep_no_statistics_are_left_alone():
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())
    recalibrate(net, batches(1), FP32)
    assert net[0].running_mean is None


class Functional(nn.Module):
    """A norm whose statistics are buffers of any name, handed to torch's function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("mean", torch.full((3,), 50.0))
        self.register_buffer("var", torch.full((3,), 50.0))

    def forward(self, x):
        return self.function(x, self.mean, self.var, None, None, self.training, 0.3)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["batch module", "batch", "instance module", "instance"])
def test_every_norm_that_keeps_statistics_is_averaged_exactly(kind, shared):
    if kind.endswith("module"):
        made = nn.BatchNorm2d if kind.startswith("batch") else nn.InstanceNorm2d
        norm = made(3, track_running_stats=True)
        found = lambda: (norm.running_mean, norm.running_var)  # noqa: E731
    else:
        norm = Functional(F.batch_norm if kind == "batch" else F.instance_norm)
        found = lambda: (norm.mean, norm.var)  # noqa: E731
    recalibrate(nn.Sequential(norm, nn.ReLU()), batches(), FP32, shared=shared)
    images = [batch.images for batch in batches()]
    mean, var = average(images)
    if kind.startswith("instance"):
        var = torch.stack([x.var((2, 3), unbiased=True).mean(0) for x in images]).mean(0)
    torch.testing.assert_close(found()[0], mean)
    torch.testing.assert_close(found()[1], var)


@pytest.mark.parametrize("bf16", [False, True])
def test_accuracy_counts_every_image_once(bf16):
    net = model()
    recalibrate(net, batches(), FP32)
    found = evaluate(net, iter(batches()), Precision(torch.device("cpu"), bf16))
    net.eval()
    images = torch.cat([batch.images for batch in batches()])
    labels = torch.cat([batch.labels for batch in batches()])
    with torch.no_grad():
        logits = net(images)
    assert found.images == 32
    assert found.image_size == 12
    # In BF16 products are rounded, one layer after another; sums are FP32.
    rounded = {"roundings": 4, "precision": "bf16"} if bf16 else {"roundings": count_roundings(net)}
    assert_same(found.loss, F.cross_entropy(logits, labels), **rounded)
    right = float((logits.argmax(1) == labels).float().mean())
    assert found.top1 == pytest.approx(right, abs=3 / 32 if bf16 else None)
    assert found.to_json().keys() == {"top1", "loss", "images", "image_size"}


def test_evaluation_does_not_train():
    net = model()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluate(net.train(), batches(), FP32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_shares_of_the_images_are_all_of_them_each_once():
    source = noise_data(classes=5, count=21).val
    options = {"image_size": 16, "batch_size": 4}
    whole = list(eval_batches(source, **options))
    for world in (2, 3, 7):
        shares = [list(eval_batches(source, rank=r, world=world, **options)) for r in range(world)]
        assert sum(len(batch.labels) for own in shares for batch in own) == 21
        for number, batch in enumerate(whole):
            own = shares[number % world][number // world]
            assert torch.equal(own.images, batch.images)
            assert torch.equal(own.labels, batch.labels)


def test_a_share_may_be_empty():
    assert evaluate(model(), [], FP32, shared=True).images == 0


def test_running_statistics_are_those_of_batch_norms_that_keep_any():
    net = nn.Sequential(model(), nn.BatchNorm2d(3, track_running_stats=False))
    found = running_statistics(net)
    assert [len(values) for values in found] == [6, 6, 4, 4]
    assert found[0] is net[0][1].running_mean
