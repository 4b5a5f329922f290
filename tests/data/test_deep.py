"""Every encoding of a picture gives the same brightness, or is refused with the range found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deep_pictures import (
    write_deep_png,
    write_deep_tiff,
    write_floating,
    write_folder,
    write_mode,
    write_whole,
)
from PIL import Image

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS
from dmcp_deploy.run.checks import check_pictures


def mean(data) -> float:
    views = [source.image(n, 32) for source in (data.train, data.val) for n in range(len(source))]
    return float(torch.stack(views).float().mean())


@pytest.mark.parametrize(
    ("suffix", "write", "white"),
    [
        (".png", write_mode("RGB"), 255),
        (".png", write_mode("1"), 255),
        (".png", write_mode("P"), 255),
        (".png", write_mode("LA"), 255),
        (".png", write_mode("RGBA"), 255),
        (".jpg", write_mode("CMYK"), 255),
        (".tif", write_mode("CMYK"), 255),
        (".tif", write_mode("YCbCr"), 255),
        (".png", write_whole(65535), 65535),
        (".png", write_whole(4095), 4095),
        (".png", write_whole(1023), 1023),
        (".tif", write_whole(16383), 16383),
        (".png", write_whole(255), 255),
        (".tif", write_whole(4095, bits=32), 4095),
        (".tif", write_whole(2**24 - 1, bits=32), 2**24 - 1),
        (".tif", write_floating(1.0), 1),
        (".tif", write_floating(255.0), 255),
        (".tif", write_floating(65535.0), 65535),
        (".png", write_deep_png(65535), 65535),
        (".tif", write_deep_tiff(65535), 65535),
    ],
)
def test_a_views_mean_is_that_of_its_picture_however_it_is_stored(tmp_path, suffix, write, white):
    data = open_data(str(write_folder(tmp_path, suffix, write)))
    assert data.train.preprocessing.white == data.val.preprocessing.white == white
    assert 115 < mean(data) < 140
    assert (f"white at {white:g}" in data.note) == (white != 255 or "I;16" in _mode(tmp_path))


def _mode(folder) -> str:
    path = next((folder / "train" / "dim").iterdir())
    with Image.open(path) as picture:
        return "I;16" if picture.mode in ("I", "I;16", "F") else picture.mode


@pytest.mark.parametrize(
    ("suffix", "write", "words"),
    [
        (".tif", write_floating(2.5), "floating-point pictures of .* values from .* to 2.4"),
        (".tif", write_floating(40.0), "values from .* to 39.*, of which it cannot be told"),
        (".tif", write_floating(2.0, shift=-1.0), "values from -0.9"),
        (".tif", write_floating(1e12), "black and white: convert them to 8 bits"),
        (".tif", write_floating(1.0, hole=float("nan")), r"tif cannot be used \(it holds values"),
        (".tif", write_floating(1.0, hole=float("inf")), "not numbers, or infinite"),
        (".tif", write_whole(-1000, bits=32), "16-bit or 32-bit pictures of .* from -99"),
        (".png", write_whole(9), "values from 0 to 9, of which it cannot be told"),
        (".tif", write_deep_tiff(4095), "16-bit colour pictures .* only the upper 8 bits"),
        (".png", write_deep_png(1023), "of 65535, and only the upper 8 bits"),
    ],
)
def test_a_range_that_is_not_understood_is_refused_with_what_was_found(
    tmp_path, suffix, write, words
):
    with pytest.raises(DmcpError, match=words) as caught:
        open_data(str(write_folder(tmp_path, suffix, write)))
    assert "\n" not in str(caught.value)


def test_one_factor_serves_dark_and_bright_pictures_in_every_batch(tmp_path):
    folder = write_folder(tmp_path, ".png", write_whole(4095))
    flat = {"train/dim/dark.png": 1024, "val/bright/light.png": 3072}
    for name, value in flat.items():
        Image.fromarray(np.full((40, 40), value, np.uint16)).save(folder / name)
    data = open_data(str(folder))
    assert data.train.image(data.train.names.index("dim/dark.png"), 32).unique().tolist() == [64]
    assert data.val.image(data.val.names.index("bright/light.png"), 32).unique().tolist() == [192]
    grey = data.prepared(data.train.preprocessing.for_channels(1))
    options = {"image_size": 32, "batch_size": 4, "seed": 0, "start_step": 0, "steps": 1}
    for source in (data, grey):
        trained = next(train_batches(source, augment=False, **options)).images
        judged = next(eval_batches(source.train, image_size=32, batch_size=7)).images
        assert trained.mean().abs() < 1
        assert judged.mean().abs() < 1


def test_a_deep_picture_among_others_is_refused_by_name_before_a_run(tmp_path):
    plain = write_folder(tmp_path / "plain", ".tif", write_mode("RGB"), count=130)
    deep = write_folder(tmp_path / "deep", ".tif", write_whole(1000), count=130)
    # Between the pictures that are looked at when data is opened: every second one.
    rare = open_data(str(plain)).train.names[1]
    write_floating(1.0)(plain / "train" / rare, 0)
    Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(deep / "train" / rare)
    for folder, words in (
        (plain, r"tif cannot be read .it is a floating-point picture among 8-bit ones"),
        (deep, "tif .*it holds values from 9000 to 9000, where white was found to be 1023"),
    ):
        with pytest.raises(DmcpError, match=words):
            check_pictures(open_data(str(folder)), NO_PROGRESS)


def test_pictures_of_two_deep_kinds_are_refused(tmp_path):
    folder = write_folder(tmp_path, ".tif", write_whole(4095))
    write_floating(1.0)(folder / "train" / "dim" / "9.tif", 9)
    with pytest.raises(DmcpError, match="16-bit or 32-bit and floating-point pictures"):
        open_data(str(folder))
