"""Batches finished on the network's device: the same bits, but for crops made there alone."""

from __future__ import annotations

import pytest
import torch
from closeness import assert_same
from picture_folders import make_folder
from torchvision.transforms import v2

from dmcp_deploy.data import loader
from dmcp_deploy.data.augment import DRAWS, augment_batch, normalise
from dmcp_deploy.data.augment_device import (
    VIEW_DRAWS,
    _boxes,
    augment_there,
    crop_views,
    normalise_there,
)
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.preprocessing import IMAGENET
from dmcp_deploy.data.types import Batch, ImageData, crops_of_views

CPU = torch.device("cpu")


def noise(count: int, channels: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8).random_(
        0, 256, generator=generator
    )


def draws(count: int, each: int) -> torch.Tensor:
    return torch.rand(count, each, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 33, 96])
@pytest.mark.parametrize("kind", ["turns", "crop", "shift"])
def test_augmentation_there_is_that_here_bit_for_bit(kind, size, channels):
    pixels, own = noise(40, channels, size), draws(40, DRAWS)
    found = augment_there(kind, pixels, own)
    assert found.dtype == torch.uint8
    assert torch.equal(found, augment_batch(kind, pixels, own))
    assert not torch.equal(found, pixels)


def test_pictures_that_are_drawn_anew_stay_as_they_are():
    pixels, own = noise(4, 1, 16), draws(4, DRAWS)
    assert torch.equal(augment_batch("none", pixels, own), pixels)
    assert torch.equal(augment_there("none", pixels, own), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_there_is_that_here_bit_for_bit(channels):
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, channels, 16, 16)
    found = normalise_there(pixels)
    assert found.shape == (2, 3, 16, 16)
    assert torch.equal(found, normalise(pixels))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> ImageData:
    folder = make_folder(tmp_path_factory.mktemp("pictures"), train=8, val=5)
    return open_data(str(folder))


def watched(monkeypatch) -> list[torch.Tensor]:
    """Lets the CPU count as another device; returns what is sent there."""
    pixels = []
    real = torch.Tensor.to

    def to(tensor, *arguments, **options):
        if options.get("non_blocking"):
            pixels.append(tensor)
        return real(tensor, *arguments, **options)

    monkeypatch.setattr(loader, "_is_elsewhere", lambda device: device is not None)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return pixels


def same(one: list[Batch], other: list[Batch]) -> bool:
    assert len(one) == len(other) > 0
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["imagenet", "views", "turns"])
def test_pixels_go_as_bytes_and_batches_stay_the_same(pictures, kind, workers, monkeypatch):
    data = ImageData(**{**vars(pictures), "augmentation": kind})
    options = {"image_size": 32, "batch_size": 4, "seed": 3, "start_step": 2, "steps": 5}
    here = list(train_batches(data, **options))
    val = list(eval_batches(data.val, image_size=32, batch_size=4))
    tensors = watched(monkeypatch)
    assert same(here, list(train_batches(data, **options, workers=workers, device=CPU)))
    assert same(val, list(eval_batches(data.val, image_size=32, batch_size=4, device=CPU)))
    small = [tensor for tensor in tensors if tensor.dtype == torch.float32]
    assert all(tensor.numel() <= 4 * DRAWS + 12 for tensor in small)
    large = [tensor for tensor in tensors if tensor.dtype == torch.uint8]
    assert len(large) == len(here) + len(val)


def test_boxes_are_drawn_as_torchvision_draws_them():
    boxes = _boxes(draws(4000, VIEW_DRAWS))
    left, top, width, height = boxes.T
    assert (boxes >= 0).all()
    assert (left + width).max() <= 1 + 1e-6
    assert (top + height).max() <= 1 + 1e-6
    area, ratio = width * height, width / height
    assert 0.08 <= area.min() < 0.1
    assert 3 / 4 - 1e-5 <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 + 1e-5
    torch.manual_seed(0)
    image = torch.zeros(1, 1000, 1000)
    make = v2.RandomResizedCrop(32, antialias=True)
    theirs = [make.make_params([image]) for _ in range(1000)]
    areas = torch.tensor([one["height"] * one["width"] / 1e6 for one in theirs])
    deviation = float(areas.std()) / len(areas) ** 0.5
    assert area.mean() == pytest.approx(float(areas.mean()), abs=4.5 * deviation)
    assert area.std() == pytest.approx(float(areas.std()), abs=4.5 * deviation)


def test_a_box_that_never_fits_is_the_whole_view():
    never = torch.full((2, VIEW_DRAWS), 0.999)  # the largest area at the widest ratio
    assert torch.equal(_boxes(never), torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))


def test_the_whole_view_at_its_own_size_is_itself_mirrored_or_not():
    pixels = noise(2, 3, 32)
    whole = torch.full((2, VIEW_DRAWS), 0.999)
    whole[1, -1] = 0.0
    found = crop_views(pixels, 32, whole)
    for one, other in zip(found, (pixels[0], pixels[1].flip(2)), strict=True):
        # A place up to 32 that is rounded lies between two pixels that differ by up to 255.
        assert_same(one, other, scale=32 * 255, roundings=4)


def test_a_crop_shows_the_part_of_its_box():
    ramp = torch.arange(128, dtype=torch.uint8).expand(4, 1, 128, -1)
    own = draws(4, VIEW_DRAWS)
    own[:, -1] = 0.9
    left, _, width, _ = (128 * _boxes(own)).T
    found = crop_views(ramp, 64, own)
    expected = left[:, None] + (torch.arange(64) + 0.5) / 64 * width[:, None] - 0.5
    middle = slice(2, 62)  # beyond the outermost pixels' centres the edge is repeated
    shown = expected[:, middle].clamp(0, 127)
    assert_same(found[:, 0, 30, middle], shown, roundings=8)


def test_crops_of_views_hold_small_data_and_decode_it_once(pictures, monkeypatch):
    data = crops_of_views(pictures)
    assert data.augmentation == "views"
    options = {"image_size": 32, "batch_size": 6, "seed": 3, "start_step": 0, "steps": 8}
    first = list(train_batches(data, **options))
    assert IMAGENET.covered((32, 32)) in data.train._held
    monkeypatch.setattr(data.train, "picture", None)
    assert same(first, list(train_batches(data, **options)))
    assert first[0].images.shape == (6, 3, 32, 32)


def test_other_kinds_are_the_same_on_the_device(pictures):
    cells = ImageData(**{**vars(pictures), "augmentation": "turns"})
    assert crops_of_views(cells) is cells


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["imagenet", "turns", "crop", "shift"])
def test_batches_of_a_gpu_are_those_of_the_cpu(pictures, kind):
    data = ImageData(**{**vars(pictures), "augmentation": kind})
    options = {"image_size": 32, "batch_size": 4, "seed": 3, "start_step": 2, "steps": 5}
    here = list(train_batches(data, **options))
    there = list(train_batches(data, **options, workers=2, device=torch.device("cuda")))
    assert all(batch.images.is_cuda for batch in there)
    assert same(here, [Batch(batch.images.cpu(), batch.labels.cpu()) for batch in there])
