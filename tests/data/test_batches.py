from __future__ import annotations

import dataclasses
import io
import itertools
import multiprocessing
import time
from collections import Counter
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from closeness import assert_same
from picture_folders import make_folder, make_idx

from dmcp_deploy.data import sources as data_sources
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, steps_per_epoch, train_batches
from dmcp_deploy.data.preprocessing import MEAN, STD
from dmcp_deploy.data.size import as_size
from dmcp_deploy.data.types import Batch, ImageData
from dmcp_deploy.errors import DmcpError

KINDS = ("imagenet", "views", "crop", "shift", "turns")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> ImageData:
    """24 training pictures in 3 classes, decoded one by one."""
    return open_data(str(make_folder(tmp_path_factory.mktemp("pictures"), train=8, val=5)))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> ImageData:
    """40 training pictures of noise in Fashion-MNIST's format."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 20)):
        make_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        make_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return open_data("fashion-mnist", root=folder)


@pytest.fixture(params=KINDS)
def data(request, pictures, arrays) -> ImageData:
    source = pictures if request.param in ("imagenet", "views") else arrays
    return dataclasses.replace(source, augmentation=request.param)


def batches(data, *, start_step=0, steps=10, **options) -> list[Batch]:
    options = {"image_size": 32, "batch_size": 4, "seed": 3, **options}
    return list(train_batches(data, start_step=start_step, steps=steps, **options))


def same(one: list[Batch], other: list[Batch]) -> bool:
    assert len(one) == len(other) > 0
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(one, other, strict=True)
    )


def fingerprints(found: list[Batch]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in found for image in batch.images]


def test_batches_have_their_shapes_and_types(data):
    first = batches(data, steps=1)[0]
    assert first.images.shape == (4, 3, 32, 32)
    assert first.images.dtype == torch.float32
    assert first.labels.shape == (4,)
    assert first.labels.dtype == torch.int64


def test_a_later_start_gives_the_same_batches(data):
    assert same(batches(data)[5:], batches(data, start_step=5, steps=5))


def test_steps_far_ahead_are_reached_at_once(data):
    begin = time.perf_counter()
    assert len(batches(data, start_step=10_000_000, steps=2)) == 2
    assert time.perf_counter() - begin < 2


def test_workers_give_the_same_batches(data):
    assert same(batches(data), batches(data, workers=2))


def test_seeds_and_epochs_differ(data):
    assert not same(batches(data), batches(data, seed=4))
    epoch = steps_per_epoch(data, 4)
    again = batches(data, start_step=epoch, steps=epoch)
    assert not same(batches(data, steps=epoch), again)


def test_each_epoch_has_an_order_of_its_own(arrays):
    epoch = steps_per_epoch(arrays, 4)
    first, second = (
        batches(arrays, start_step=start, steps=epoch, augment=False) for start in (0, epoch)
    )
    assert not same(first, second)
    assert sorted(fingerprints(first)) == sorted(fingerprints(second))


def test_global_random_state_neither_matters_nor_changes(data):
    torch.manual_seed(1)
    first = batches(data, workers=2) + batches(data)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(first, batches(data, workers=2) + batches(data))


@pytest.mark.parametrize("augment", [False, True])
def test_ranks_share_the_global_batch(data, augment):
    options = {"batch_size": 3, "augment": augment}
    ranks = [batches(data, rank=r, world=2, **options) for r in range(2)]
    whole = batches(data, **{**options, "batch_size": 6})
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        if not augment:
            assert len(set(fingerprints([batch]))) == 6


def test_an_epoch_holds_every_picture_at_most_once_and_drops_the_rest(arrays):
    epoch = steps_per_epoch(arrays, 7)
    assert epoch == 40 // 7
    known = fingerprints(list(eval_batches(arrays.train, image_size=32, batch_size=40)))
    for start in (0, epoch):
        seen = fingerprints(
            batches(arrays, start_step=start, steps=epoch, batch_size=7, augment=False)
        )
        assert len(set(seen)) == 35
        assert set(seen) <= set(known)


def test_labels_stay_with_their_pictures(arrays):
    known = dict(
        zip(
            fingerprints(list(eval_batches(arrays.train, image_size=32, batch_size=40))),
            arrays.train.labels.tolist(),
            strict=True,
        )
    )
    for batch in batches(arrays, augment=False):
        assert [known[key] for key in fingerprints([batch])] == batch.labels.tolist()


def test_augmentation_changes_pictures_anew_in_each_epoch(data):
    plain = batches(data, steps=6, augment=False)
    changed = batches(data, steps=6)
    for before, after in zip(plain, changed, strict=True):
        assert torch.equal(before.labels, after.labels)
        assert not torch.equal(before.images, after.images)
    epochs = [batches(data, start_step=e * 10, steps=10) for e in range(4)]
    found = fingerprints(list(itertools.chain.from_iterable(epochs)))
    assert len(set(found)) > 0.8 * len(found)


def test_eval_gives_all_in_order_normalised(pictures):
    found = list(eval_batches(pictures.val, image_size=32, batch_size=4))
    assert [len(batch.labels) for batch in found] == [4, 4, 4, 3]
    assert torch.equal(torch.cat([b.labels for b in found]), pictures.val.labels)
    pixels = pictures.val.image(4, 32).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    assert_same(found[1].images[0], (pixels - mean) / std, roundings=3)


def test_eval_limit_takes_a_fixed_mixed_choice(pictures):
    def limited(limit: int) -> list[Batch]:
        return list(eval_batches(pictures.train, image_size=32, batch_size=4, limit=limit))

    labels = torch.cat([batch.labels for batch in limited(10)])
    assert len(labels) == 10
    assert len(labels.unique()) == 3
    assert len(set(fingerprints(limited(10)))) == 10
    assert same(limited(10), limited(10))
    assert same(limited(99), list(eval_batches(pictures.train, image_size=32, batch_size=4)))


def test_eval_workers_give_the_same_batches(pictures):
    found = [
        list(eval_batches(pictures.val, image_size=32, batch_size=4, workers=w)) for w in (0, 2)
    ]
    assert same(*found)


@pytest.mark.parametrize("size", [16, 32, 57])
def test_pictures_held_in_memory_are_the_same(pictures, arrays, size, monkeypatch):
    for data in (pictures, arrays):
        held = list(eval_batches(data.val, image_size=size, batch_size=7))
        assert as_size(size) in data.val._held
        with monkeypatch.context() as patch:
            patch.setattr(data.val, "_held", {})
            patch.setattr(data_sources, "HELD_BYTES", 0)
            assert same(held, list(eval_batches(data.val, image_size=size, batch_size=7)))
            assert not data.val._held


def test_memory_is_taken_only_for_what_is_read_and_fits(arrays, monkeypatch):
    source = data_sources.ArrayImages(lambda: arrays.train._loaded(), arrays.train.labels, 1)
    options = {"image_size": 32, "batch_size": 10}
    list(eval_batches(source, limit=10, **options))
    assert not source._held
    list(eval_batches(source, limit=10, **options))
    assert set(source._held) == {(32, 32)}
    monkeypatch.setattr(data_sources, "HELD_BYTES", 40 * 32 * 32 + 40 * 16 * 16 - 1)
    list(eval_batches(source, image_size=16, batch_size=10))
    assert set(source._held) == {(16, 16)}


def test_data_travel_to_workers_that_do_not_fork(pictures, arrays):
    for data in (pictures, arrays):
        next(eval_batches(data.val, image_size=32, batch_size=4))
        ForkingPickler(io.BytesIO()).dump(data)


def test_sizes_that_do_not_suit_are_told_before_iterating(arrays):
    options = {"image_size": 32, "batch_size": 4, "seed": 0, "start_step": 0, "steps": 1}
    with pytest.raises(DmcpError, match="image size 8 is too small"):
        train_batches(arrays, **{**options, "image_size": 8})
    with pytest.raises(DmcpError, match="image size 15 is too small"):
        eval_batches(arrays.val, image_size=15, batch_size=4)
    with pytest.raises(DmcpError, match="batch size 0 is too small"):
        train_batches(arrays, **{**options, "batch_size": 0})
    with pytest.raises(DmcpError, match="batch size 41 is larger than the 40 training pictures"):
        train_batches(arrays, **{**options, "batch_size": 41})
    with pytest.raises(DmcpError, match="batch size 60 is larger"):
        train_batches(arrays, **{**options, "batch_size": 30}, world=2)
    assert len(list(train_batches(arrays, **{**options, "batch_size": 40}))) == 1


def test_a_broken_off_iteration_leaves_no_worker(pictures):
    stream = train_batches(
        pictures, image_size=32, batch_size=4, seed=0, start_step=0, steps=50, workers=2
    )
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.needs("elpv")
def test_elpv_batches_are_real_pictures_and_fast():
    data = open_data("elpv")
    stream = train_batches(data, image_size=96, batch_size=32, seed=0, start_step=0, steps=62)
    times, labels, means = [], Counter(), []
    for _ in range(61):
        begin = time.process_time()
        batch = next(stream)
        times.append(time.process_time() - begin)
        labels.update(batch.labels.tolist())
        means.append(batch.images.mean().item())
    assert sorted(times)[30] < 0.015
    assert labels[1] / (61 * 32) == pytest.approx(821 / 2624, abs=0.01)
    assert np.std(means) > 0
    assert torch.isfinite(batch.images).all()


@pytest.mark.needs("fashion-mnist")
def test_ten_thousand_fashion_pictures_take_about_a_second():
    source = open_data("fashion-mnist").val
    begin = time.process_time()
    count = sum(len(b.labels) for b in eval_batches(source, image_size=32, batch_size=250))
    assert count == 10_000
    assert time.process_time() - begin < 2
