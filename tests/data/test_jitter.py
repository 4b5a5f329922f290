"""Colours changed at random: as torchvision changes them, and the same on any device."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import pytest
import torch
from closeness import assert_same
from picture_folders import make_folder
from torch import Tensor
from torchvision.transforms.v2 import functional

from dmcp_deploy.data import loader
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.jitter import COLOUR_DRAWS, jitter_colours
from dmcp_deploy.data.loader import train_batches
from dmcp_deploy.data.types import Batch, ImageData

AMOUNTS = (0.2, 0.3, 0.4, 0.1)
OPTIONS = {"image_size": 32, "batch_size": 4, "seed": 3, "start_step": 0, "steps": 4}


def pixels(channels: int = 3, count: int = 6) -> Tensor:
    """Returns noise, a picture of one colour, a grey one, and one of the purest colours."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (count, channels, 16, 12), generator=generator)
    made[1], made[2] = made[1, :, :1, :1], made[2, :1]
    made[3] = (made[3] > 127) * 255
    return made.byte()


def draws(count: int = 6) -> Tensor:
    return torch.rand(count, COLOUR_DRAWS, generator=torch.Generator().manual_seed(1))


def torchvisions(picture: Tensor, moves: Tensor, order: tuple[int, ...]) -> Tensor:
    """Returns a picture [C, H, W] in 0 to 1 changed by torchvision, one change after the other."""
    changes = (
        lambda x, move: functional.adjust_brightness(x, 1 + move),
        lambda x, move: functional.adjust_contrast(x, 1 + move),
        lambda x, move: functional.adjust_saturation(x, 1 + move),
        functional.adjust_hue,
    )
    for number in order:
        picture = changes[number](picture, float(moves[number]))
    return picture


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", [*[(n,) for n in range(4)], *permutations(range(4))][:10])
def test_pictures_are_changed_as_by_torchvision(order: tuple[int, ...], channels: int) -> None:
    found = jitter_colours(pixels(channels), AMOUNTS, draws(), order)
    moves = (2 * draws() - 1) * torch.tensor(AMOUNTS)
    for picture, move, one in zip(pixels(channels), moves, found, strict=True):
        expected = 255 * torchvisions(picture / 255, move, order)
        assert_same(one, expected, scale=255, roundings=64)
    unchanged = channels == 1 and set(order) <= {2, 3}
    assert torch.equal(found, pixels(channels).float()) == unchanged


def test_an_amount_of_zero_changes_nothing() -> None:
    assert torch.equal(jitter_colours(pixels(), (0, 0, 0, 0), draws(), range(4)), pixels().float())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return open_data(str(make_folder(tmp_path_factory.mktemp("pictures"), train=8, val=5)))


def batches(data: ImageData, **options: object) -> list[Batch]:
    return list(train_batches(data, **{**OPTIONS, **options}))


@pytest.mark.parametrize("kind", ["imagenet", "views", "turns"])
def test_batches_are_the_same_anywhere(
    kind: str, pictures: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dataclasses.replace(pictures, augmentation=kind)
    data = dataclasses.replace(plain, color_jitter=AMOUNTS)
    whole = batches(data)
    for one, other in zip(whole, batches(plain), strict=True):
        assert torch.equal(one.labels, other.labels)
        assert not torch.equal(one.images, other.images)
    for one, other in zip(whole[2:], batches(data, start_step=2, steps=2), strict=True):
        assert torch.equal(one.images, other.images)
    parts = [batches(data, batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    for one, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(one.images, torch.cat([share.images for share in shares]))
    monkeypatch.setattr(loader, "_is_elsewhere", lambda device: device is not None)
    there = batches(data, device=torch.device("cpu"), workers=2)
    for one, other in zip(whole, there, strict=True):
        assert torch.equal(one.images, other.images)


def test_what_is_not_augmented_keeps_its_colours(pictures: ImageData) -> None:
    data = dataclasses.replace(pictures, color_jitter=AMOUNTS)
    for one, other in zip(
        batches(data, augment=False), batches(pictures, augment=False), strict=True
    ):
        assert torch.equal(one.images, other.images)


@pytest.mark.gpu
def test_a_gpu_changes_them_alike() -> None:
    here = jitter_colours(pixels(), AMOUNTS, draws(), range(4))
    there = jitter_colours(pixels().cuda(), AMOUNTS, draws(), range(4))
    assert_same(there.cpu(), here, scale=255, roundings=64)
