"""Operations one by one: those that let channels go, and those that hold them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from closeness import assert_same, count_roundings
from odd_nets import OddNet
from tiny_nets import CLASSES, INPUT, random_keeps, random_widths
from torch import Tensor, nn

from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec

Operation = Callable[[Tensor], Tensor]


class OneOperation(OddNet):
    """A convolution to 8 channels, an operation on [N, 8, 8, 8], another convolution."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.odd = operation


def network_around(operation: Operation) -> Network:
    torch.manual_seed(0)
    spec = NetworkSpec("one-operation", num_classes=CLASSES, input_shape=INPUT)
    return trace_network(OneOperation(operation).eval(), spec)


def partly_doubled(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 2:, :] = 2 * x[:, :, 2:]
    y[..., 0] = 0.5
    return y


def written_elsewhere(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0:8] = x.transpose(1, 2)
    return y


def shaped_in_place(x: Tensor) -> Tensor:
    y = 2 * x
    y.unsqueeze_(1)
    return y.flatten(1, 2)


LETTING_GO: dict[str, tuple[Operation, int]] = {
    "arithmetic": (lambda x: (2 * x + 1 - x / 3) ** 2, 1),
    "unary": (lambda x: torch.sigmoid(x).clamp(0.1, 0.9).abs().neg(), 1),
    "casts": (lambda x: x.double().to(torch.float32).type_as(x), 1),
    "parts of the batch": (lambda x: torch.cat(torch.split(x, 1, dim=0), dim=0), 1),
    "parts, joined at once": (lambda x: torch.cat(x.chunk(2, dim=1), dim=1), 2),
    "parts in another order": (lambda x: torch.cat(x.chunk(2, dim=1)[::-1], axis=1), 2),
    "rows and columns": (lambda x: x[:, :, 1:, 1, None], 1),
    "index behind an ellipsis": (lambda x: x[..., 2:], 1),
    "index that takes all": (lambda x: x[:, :8] + x[:, 0:99], 1),
    "axes of one": (lambda x: x[:, None].squeeze(1).unsqueeze(2).squeeze((2,)), 1),
    "permutation": (lambda x: x.permute(0, 2, 3, 1).contiguous().permute((0, 3, 1, 2)), 1),
    "transposition": (lambda x: x.transpose(1, 3).transpose(-1, 1), 1),
    "view and back": (lambda x: x.flatten(2).view(x.shape), 1),
    "view by keyword": (lambda x: x.view(size=(x.size(0), -1, 4, 16)), 1),
    "inferred channels": (lambda x: x.reshape(x.size(0), -1, 8, 8), 1),
    "halves by a view": (lambda x: x.view(x.size(0), 2, -1, 8, 8).flatten(1, 2), 2),
    "spatial statistics": (lambda x: x - torch.mean(input=x, dim=(2, 3), keepdim=True), 1),
    "sum and square root": (lambda x: x / (x**2).sum((2, 3), True).sqrt(), 1),
    "padding": (lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1], 1),
    "scale of the picture": (lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2), 1),
    "one channel from the picture": (lambda x: x * torch.ones(1, 1, 8, 8), 1),
    "stack": (lambda x: torch.stack([x, 2 * x], 1).mean(1), 1),
    "stack and unbind": (lambda x: torch.stack([x, x.abs()], -1).unbind(-1)[1], 1),
    "matrices transposed": (lambda x: x.mT, 1),
    "softmax": (lambda x: F.softmax(x, 1), 1),
    "unit length": (lambda x: F.normalize(x, dim=1), 1),
    "part of a double": (lambda x: torch.cat([x, x], 1)[:, :8], 1),
    "view by number": (lambda x: x.view(x.size(0), 8, 64).view(x.shape), 1),
    "view by numbers in a list": (lambda x: x.reshape([x.size(0), 8, 64]).view(x.shape), 1),
    "flat view by number": (lambda x: x.view(-1, 512).view(x.shape), 1),
    "batch and channels": (lambda x: x.flatten(0, 1).view(x.shape), 1),
    "view across channels": (lambda x: x.view(x.size(0), -1, 4, 32).view(x.shape), 2),
    "shape of another": (lambda x: x.flatten(2).reshape((2 * x).shape), 1),
    "channel statistics": (lambda x: (x - x.mean(1, True)) / x.var(1, keepdim=True).sqrt(), 1),
    "smallest channel": (lambda x: x - x.min(dim=1, keepdim=True).values, 1),
    "largest channel": (lambda x: x / torch.amax(x.abs(), 1, True), 1),
    "norm of the picture": (lambda x: x / x.norm(p=2, dim=(2, 3), keepdim=True), 1),
    "whole mean": (lambda x: x - x.mean(), 1),
    "scaled sum": (lambda x: torch.addcmul(x, x.mean((2, 3), keepdim=True), 2 * x), 1),
    "matrix product of every channel": (lambda x: torch.matmul(x, x), 1),
    "attention of one head": (
        lambda x: F.scaled_dot_product_attention(*3 * [x.flatten(2).mT]).mT.reshape(x.shape),
        1,
    ),
    "expansion": (lambda x: x * x.mean((2, 3), keepdim=True).expand(-1, 8, 8, 8), 1),
    "expansion to another": (lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x), 1),
    "condition": (lambda x: torch.where(x > 0, x, -x).masked_fill(x.abs() < 0.1, 0.5), 1),
    "comparison of two": (lambda x: x * (x.sin() >= x.cos()).float(), 1),
    "layer norm without weights": (
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
        1,
    ),
    "layer norm of the columns": (lambda x: F.layer_norm(x, [8]), 1),
    "axes that move": (lambda x: x.movedim(1, -1).movedim((3, 1), (1, 2)).swapaxes(2, 3), 1),
    "axes in place": (lambda x: (2 * x).unsqueeze_(1).abs().squeeze_(1), 1),
    "zeros like it": (lambda x: x + torch.zeros_like(x) + x.new_zeros(1), 1),
    "shape of its own": (lambda x: x.flatten(2).softmax(-1).view_as(x), 1),
    "pixels of channels": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 4),
    "softmax as a layer": (lambda x: nn.Softmax(dim=1)(x), 1),
    "part written into": (partly_doubled, 1),
    "rolled and flipped picture": (lambda x: torch.roll(x, 1, dims=3).flip(2), 1),
}


@pytest.mark.parametrize(("operation", "unit"), LETTING_GO.values(), ids=LETTING_GO.keys())
def test_operations_that_let_channels_go(operation: Operation, unit: int) -> None:
    network = network_around(operation)
    assert {g.name: g.unit for g in network.prunable} == {"stem": unit, "second": 1}
    images = torch.randn(2, *INPUT)
    supernet = Supernet(network)
    with torch.no_grad():
        assert torch.equal(supernet(images), network.model(images))
        for keeps in (random_widths(network, 0), random_keeps(network, 1)):
            dense = slice_network(network, keeps)
            assert_same(dense(images), supernet(images, keeps), roundings=count_roundings(dense))


HOLDING: dict[str, tuple[Operation, str]] = {
    "flip": (lambda x: x.flip(1), "channels change places by a number"),
    "roll": (lambda x: torch.roll(x, 1, dims=1), "channels change places by a number"),
    "order of the channels": (lambda x: x.cumsum(1), "cumsum is not in the layer table"),
    "part of other channels": (written_elsewhere, "whose channels lie elsewhere"),
    "shape changed in place": (shaped_in_place, "its shape is changed in place"),
    "norm of everything": (
        lambda x: F.layer_norm(x, x.shape[1:]),
        "a layer norm over more than the channels",
    ),
    "list of channels": (lambda x: x[:, [7, 6, 5, 4, 3, 2, 1, 0]], "picks channels by number"),
    "every other channel": (lambda x: x[:, ::2].repeat(1, 2, 1, 1), "picks channels by number"),
    "one channel": (lambda x: x[:, 3, None].expand(-1, 8, -1, -1), "picks channels by number"),
    "channels one by one": (lambda x: torch.stack(x.unbind(1), 1), "taken apart one by one"),
    "constant per channel": (lambda x: x + torch.arange(8.0).view(8, 1, 1), "are unknown"),
    "new channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, :8], "padding adds channels"),
    "pooling of channels": (
        lambda x: F.max_pool2d(x.transpose(1, 3), 3, 1, 1).transpose(1, 3),
        "spatial operation runs over the channels",
    ),
    "bound from a tensor": (lambda x: torch.clamp(x, min=-x), "clamp reads several tensors"),
    "channels on other axes": (lambda x: x + x.transpose(1, 2), "channels are unknown"),
    "matrix product over channels": (
        lambda x: (torch.ones(8, 8) @ x.flatten(2)).view(-1, 8, 8, 8),
        "a matrix product of channels with other axes",
    ),
}


@pytest.mark.parametrize(("operation", "words"), HOLDING.values(), ids=HOLDING.keys())
def test_operations_that_hold_channels(operation: Operation, words: str) -> None:
    network = network_around(operation)
    stem = next(group for group in network.groups if group.name == "stem")
    assert words in (stem.reason or "")
    assert [group.name for group in network.prunable] == ["second"]
    images = torch.randn(2, *INPUT)
    with torch.no_grad():
        assert torch.equal(Supernet(network)(images), network.model(images))
        keeps = {"second": 3}
        dense = slice_network(network, keeps)
        narrow = Supernet(network)(images, keeps)
        assert_same(dense(images), narrow, roundings=count_roundings(dense))
