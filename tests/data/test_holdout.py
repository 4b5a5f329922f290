"""Training pictures that are held out: none is trained on, all others are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_folders import make_folder, make_idx

from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.holdout import hold_out
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> ImageData:
    """60 training pictures of noise: no two are alike."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        make_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        make_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) // 6 % 10)
    return open_data("fashion-mnist", root=folder)


def pictures(batches) -> list[tuple[bytes, int]]:
    return [
        (image.numpy().tobytes(), int(label))
        for batch in batches
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]


def test_each_picture_is_trained_on_or_held_out(noise):
    rest, held = hold_out(noise, 5, seed=0)
    judged = pictures(eval_batches(held, image_size=32, batch_size=4))
    options = {"image_size": 32, "batch_size": 5, "seed": 0, "augment": False}
    trained = pictures(train_batches(rest, start_step=0, steps=11, **options))
    everything = pictures(train_batches(noise, start_step=0, steps=12, **options))
    assert len(judged) == len(held) == 5
    assert not {*judged} & {*trained}
    assert {*judged} | {*trained} == {*everything}
    assert rest.val is noise.val


def test_they_are_a_mixed_choice_that_depends_on_the_seed(noise):
    choices = [hold_out(noise, 6, seed)[1].labels.tolist() for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]
    assert len(set(choices[0])) > 2
    assert choices[0] != sorted(choices[0])


def test_at_most_a_tenth_is_held_out(noise):
    rest, held = hold_out(noise, 1000, seed=0)
    assert (len(rest.train), len(held)) == (54, 6)


def test_files_can_be_held_out_too(tmp_path: Path):
    data = open_data(str(make_folder(tmp_path / "pictures", train=8)))
    rest, held = hold_out(data, 100, seed=0)
    assert (len(rest.train), len(held)) == (22, 2)
    alone = held.views(torch.tensor([1]), 32)
    held.hold(32, 100)
    assert torch.equal(held.views(torch.tensor([1]), 32), alone)
    assert held.picture(1).size[0] >= 40
    batches = train_batches(rest, image_size=32, batch_size=4, seed=0, start_step=0, steps=7)
    assert all(batch.images.shape == (4, 3, 32, 32) for batch in batches)


def test_too_few_pictures_are_refused(tmp_path: Path):
    data = open_data(str(make_folder(tmp_path / "pictures", train=6)))
    with pytest.raises(DmcpError, match="18 training pictures, too few to hold out"):
        hold_out(data, 100, seed=0)
