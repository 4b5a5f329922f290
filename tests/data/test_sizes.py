"""Pictures of other sizes and channels: oblong views, crops and moves; colour read as grey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from picture_folders import make_folder, make_picture
from PIL import Image

from dmcp_deploy.data.augment import (
    DRAWS,
    augment_batch,
    centre_crop,
    fit_arrays,
    random_crop,
    squash,
    to_grey,
    to_pixels,
)
from dmcp_deploy.data.augment_device import VIEW_DRAWS, augment_there, crop_views
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.preprocessing import GREY_MEAN, GREY_STD
from dmcp_deploy.data.size import format_size, recorded_size, scaled_size
from dmcp_deploy.data.types import crops_of_views


def ramp(width: int, height: int) -> Image.Image:
    """Returns a picture whose red tells the column and whose green tells the row, from 0 to 1."""
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([across, down, across * 0], 2).astype(np.uint8))


def spans(pixels: torch.Tensor) -> tuple[float, float]:
    """Returns the share of a ramp's columns and of its rows that is in view."""
    red, green = pixels[0].float(), pixels[1].float()
    return tuple(float(c.max() - c.min()) / 255 for c in (red, green))  # type: ignore[return-value]


@pytest.mark.parametrize(("width", "height"), [(300, 100), (200, 200), (100, 300), (96, 33)])
def test_the_middle_keeps_its_shape_and_fills_an_oblong_input(width, height):
    pixels = to_pixels(centre_crop(ramp(width, height), (32, 96)))
    assert pixels.shape == (3, 32, 96)
    across, down = spans(pixels)
    # One factor for both: as many picture pixels across as the sides' ratio says.
    assert across * width / (down * height) == pytest.approx(3, rel=0.06)
    assert max(across, down) == pytest.approx(224 / 256, abs=0.03)


def test_random_crops_are_about_as_oblong_as_the_input():
    ratios = []
    for seed in range(300):
        pixels = random_crop(ramp(400, 400), (32, 96), seed)
        assert pixels.shape == (3, 32, 96)
        across, down = spans(pixels)
        ratios.append(across / down)
    assert 2.1 < min(ratios) < 2.6
    assert 3.4 < max(ratios) < 4.2
    assert np.median(ratios) == pytest.approx(3, rel=0.08)


def test_crops_out_of_oblong_views_are_about_as_oblong():
    view = to_pixels(ramp(110, 37)).unsqueeze(0).expand(300, -1, -1, -1)
    draws = torch.rand(300, VIEW_DRAWS, generator=torch.Generator().manual_seed(0))
    crops = crop_views(view, (32, 96), draws)
    assert crops.shape == (300, 3, 32, 96)
    shares = np.array([spans(crop) for crop in crops])
    assert np.median(shares[:, 0] / shares[:, 1]) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("kind", ["turns", "crop", "shift"])
@pytest.mark.parametrize("channels", [1, 3])
def test_oblong_batches_change_alike_on_the_host_and_on_a_device(kind, channels):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(1, 256, (40, channels, 24, 40), dtype=torch.uint8, generator=generator)
    draws = torch.rand(40, DRAWS, generator=generator)
    changed = augment_batch(kind, pixels, draws)
    assert changed.shape == pixels.shape
    assert not torch.equal(changed, pixels)
    assert torch.equal(augment_there(kind, pixels, draws), changed)


def test_oblong_cells_are_mirrored_and_turned_by_half():
    pixels = torch.arange(24 * 40).view(1, 1, 24, 40).remainder(251).byte().expand(400, -1, -1, -1)
    draws = torch.rand(400, DRAWS, generator=torch.Generator().manual_seed(0))
    found = augment_batch("turns", pixels, draws)
    known = [pixels[0].flip(sides) for sides in ([], [1], [2], [1, 2])]
    counts = [int((found == each).flatten(1).all(1).sum()) for each in known]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_oblong_moves_go_up_to_an_eighth_of_each_side():
    pixels = torch.zeros(1, 1, 24, 40, dtype=torch.uint8)
    pixels[..., 12, 20] = 255
    draws = torch.rand(600, DRAWS, generator=torch.Generator().manual_seed(0))
    moved = augment_batch("shift", pixels.expand(600, -1, -1, -1), draws)
    places = moved.squeeze(1).nonzero()[:, 1:]
    assert places.amin(0).tolist() == [12 - 3, 20 - 5]
    assert places.amax(0).tolist() == [12 + 3, 20 + 5]


def test_arrays_are_padded_where_two_pixels_a_side_are_enough():
    pixels = torch.full((2, 1, 28, 28), 200, dtype=torch.uint8)
    padded = fit_arrays(pixels, (28, 32))
    assert padded.shape == (2, 1, 28, 32)
    assert padded[0, 0, 0].tolist() == [0, 0, *[200] * 28, 0, 0]
    assert fit_arrays(pixels, (24, 40)).unique().tolist() == [200]
    assert squash(make_picture(0), (24, 40)).size == (40, 24)


def test_colour_is_read_as_grey_as_pillow_does():
    picture = make_picture(3)
    assert torch.equal(to_grey(to_pixels(picture)[None])[0], to_pixels(picture.convert("L")))


@pytest.mark.parametrize("augmentation", ["imagenet", "views", "crop"])
def test_a_grey_oblong_network_trains_on_and_is_judged_by_one_channel(tmp_path, augmentation):
    data = open_data(str(make_folder(tmp_path)))
    colour = data.val.image(0, (24, 40))
    grey = data.prepared(data.train.preprocessing.for_channels(1))
    if augmentation != "imagenet":
        grey = crops_of_views(grey)
        grey = type(grey)(**{**vars(grey), "augmentation": augmentation})
    judged = next(eval_batches(grey.val, image_size=(24, 40), batch_size=6)).images
    assert judged.shape == (6, 1, 24, 40)
    expected = to_grey(colour[None]).float() / 255
    # Pillow rounds luminance before it resizes, not behind it.
    assert (judged[:1] * GREY_STD[0] + GREY_MEAN[0] - expected).abs().max() < 0.03
    options = {"image_size": (24, 40), "batch_size": 4, "seed": 0, "start_step": 0, "steps": 2}
    for batch in train_batches(grey, **options):
        assert batch.images.shape == (4, 1, 24, 40)
    assert data.val.image(0, (24, 40)).shape == (3, 24, 40)  # the data itself is as it was


def test_sizes_are_told_by_one_number_where_they_are_square():
    assert [format_size(size) for size in ((32, 32), (32, 96))] == ["32", "32x96"]
    assert [recorded_size(size) for size in ((32, 32), (32, 96))] == [32, "32x96"]
    assert scaled_size((480, 640), 240) == (240, 320)
    assert scaled_size((224, 224), 96) == (96, 96)
    assert scaled_size((32, 96), None) == (32, 96)
