from __future__ import annotations

import pytest
import torch
from closeness import assert_same
from picture_folders import make_picture

from dmcp_deploy.data.augment import (
    DRAWS,
    augment_batch,
    centre_crop,
    fit_arrays,
    normalise,
    random_crop,
    squash,
    to_pixels,
)
from dmcp_deploy.data.preprocessing import MEAN, STD


def noise(count: int, channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_is_mean_and_deviation_of_imagenet(channels):
    pixels = noise(5, channels)
    expected = pixels.double().expand(-1, 3, -1, -1) / 255
    expected = (expected - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    found = normalise(pixels)
    assert found.dtype == torch.float32
    assert_same(found, expected, roundings=3)


def symmetries(picture: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(picture, turns, (1, 2)) for turns in range(4)]
    return turned + [each.flip(2) for each in turned]


def test_cells_takes_each_of_the_eight_symmetries_about_equally():
    pixels = noise(1).expand(800, -1, -1, -1)
    found = augment_batch("turns", pixels, draws(800))
    counts = [int((found == each).flatten(1).all(1).sum()) for each in symmetries(pixels[0])]
    assert sum(counts) == 800
    assert min(counts) > 60


@pytest.mark.parametrize(("kind", "mirrored"), [("crop", True), ("shift", False)])
@pytest.mark.parametrize("size", [16, 32, 96])
def test_moves_go_up_to_an_eighth_of_the_side(kind, mirrored, size):
    pixels = noise(400, 1, size)
    margin = size // 8
    found = augment_batch(kind, pixels, draws(400))
    padded = torch.nn.functional.pad(pixels, [margin] * 4)
    reached, mirrors = set(), 0
    for picture, changed in zip(padded, found, strict=True):
        top, left, mirror = where(picture, changed, size, margin)
        reached.add((top, left))
        mirrors += mirror
    assert {0, 2 * margin} <= {top for top, _ in reached} & {left for _, left in reached}
    assert (150 < mirrors < 250) if mirrored else mirrors == 0


def where(padded, changed, size, margin):
    for mirror in (False, True):
        candidate = changed.flip(2) if mirror else changed
        windows = padded[0].unfold(0, size, 1).unfold(1, size, 1)
        hits = (windows[..., size // 2, size // 2] == candidate[0, size // 2, size // 2]).nonzero()
        for top, left in hits.tolist():
            if torch.equal(windows[top, left], candidate[0]):
                return top, left, mirror
    raise AssertionError("the picture is not a part of the padded one")


def test_a_pictures_change_depends_on_its_own_draws_alone():
    pixels = noise(8)
    for kind in ("turns", "crop", "shift"):
        whole = augment_batch(kind, pixels, draws(8))
        parts = [augment_batch(kind, pixels[i : i + 1], draws(8)[i : i + 1]) for i in range(8)]
        assert torch.equal(whole, torch.cat(parts))


def test_random_crop_is_a_function_of_its_seed():
    picture = make_picture(0, (80, 60))
    state = torch.get_rng_state()
    found = [random_crop(picture, 32, seed) for seed in range(20)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(each.shape == (3, 32, 32) and each.dtype == torch.uint8 for each in found)
    assert torch.equal(found[7], random_crop(picture, 32, 7))
    assert len({each.numpy().tobytes() for each in found}) == 20


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (20, 200), (32, 32)])
def test_views_are_square(size):
    picture = make_picture(0, size)
    assert squash(picture, 32).size == (32, 32)
    assert centre_crop(picture, 32).size == (32, 32)
    assert to_pixels(centre_crop(picture, 33)).shape == (3, 33, 33)


def test_arrays_are_padded_by_at_most_two_pixels_a_side():
    pixels = noise(2, 1, 28)
    for size, margin in ((28, 0), (30, 1), (32, 2)):
        found = fit_arrays(pixels, size)
        assert found.shape == (2, 1, size, size)
        assert torch.equal(found[..., margin : size - margin, margin : size - margin], pixels)
    for size in (16, 31, 34, 64):
        found = fit_arrays(pixels, size)
        assert found.shape == (2, 1, size, size)
        assert found[:, :, 0].float().mean() > 50
