from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_folders import make_folder, make_picture, truncate
from PIL import Image

from dmcp_deploy.data.augment import centre_crop, to_pixels
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import eval_batches, train_batches
from dmcp_deploy.errors import DmcpError


def message(source: str | Path) -> str:
    with pytest.raises(DmcpError) as caught:
        open_data(str(source))
    text = str(caught.value)
    assert "\n" not in text
    return text


def read_all(path: Path, workers: int = 0) -> None:
    data = open_data(str(path))
    for source in (data.train, data.val):
        for _ in eval_batches(source, image_size=32, batch_size=4, workers=workers):
            pass


def test_folder_gives_its_classes_counts_and_labels(tmp_path):
    data = open_data(str(make_folder(tmp_path / "pets", train=4, val=2)))
    assert data.classes == ("cat", "dog", "owl")
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.labels.dtype == torch.int64
    assert data.augmentation == "imagenet"
    assert data.name == f"folder:{tmp_path.resolve() / 'pets'}"
    assert "12 training and 6 validation pictures, 3 classes" in data.note


def test_the_name_of_a_folder_opens_it_again(tmp_path, monkeypatch):
    make_folder(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    data = open_data("pets")
    monkeypatch.chdir("/")
    assert open_data(data.name).digest == data.digest


def test_majority_share_is_that_of_val(tmp_path):
    make_folder(tmp_path, val=2)
    (tmp_path / "val" / "owl" / "001.png").unlink()
    assert open_data(str(tmp_path)).majority_share == pytest.approx(2 / 5)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".webp", ".ppm", ".tif"])
def test_every_format_is_read(tmp_path, suffix):
    source = open_data(str(make_folder(tmp_path, suffix=suffix))).train
    pixels = source.image(0, 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.uint8
    # The first picture as it was saved; what JPEG and WebP lose is little.
    expected = to_pixels(centre_crop(make_picture(0, (40, 36)), 32))
    assert (pixels.int() - expected.int()).abs().float().mean() < 12


def test_files_that_are_no_pictures_and_hidden_ones_are_passed_over(tmp_path):
    make_folder(tmp_path, train=2)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "train" / "cat" / "._000.png").write_text("x")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "__MACOSX").mkdir()
    for folder in (".ipynb_checkpoints", "@eaDir"):
        copies = tmp_path / "train" / "dog" / folder
        copies.mkdir()
        shutil.copy(tmp_path / "train" / "dog" / "000.png", copies / "000-copy.png")
    data = open_data(str(tmp_path))
    assert data.classes == ("cat", "dog", "owl")
    assert len(data.train) == 6


def test_links_that_lead_in_circles_bring_no_picture_twice(tmp_path):
    make_folder(tmp_path, train=2)
    cat, dog = tmp_path / "train" / "cat", tmp_path / "train" / "dog"
    (cat / "again").symlink_to(cat)
    (dog / "more").mkdir()
    (dog / "000.png").rename(dog / "more" / "000.png")
    (dog / "more" / "up").symlink_to(dog)
    (dog / "linked.png").symlink_to(tmp_path / "val" / "dog" / "000.png")
    names = ["cat/000.png", "cat/001.png", "dog/001.png", "dog/linked.png", "dog/more/000.png"]
    assert open_data(str(tmp_path)).train.names[:5] == names
    assert len(open_data(str(tmp_path)).train) == 7


def test_a_class_whose_name_no_record_can_hold_is_refused(tmp_path):
    make_folder(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split / "cat").rename(tmp_path / split / os.fsdecode(b"k\xe4tzchen"))
    assert r"class folder 'k\udce4tzchen' in" in message(tmp_path)


def test_view_is_the_centre_at_256_to_224(tmp_path):
    make_folder(tmp_path)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (128, 1))
    Image.fromarray(np.stack([ramp] * 3, axis=2)).save(tmp_path / "val" / "cat" / "000.png")
    row = open_data(str(tmp_path)).val.image(0, 112)[0, 50].int()
    # The shorter side is 128 = 112 * 256 / 224 already: columns 72 to 183 remain.
    assert row.tolist() == list(range(72, 184))


def test_grey_palette_and_transparent_pictures_become_three_channels(tmp_path):
    make_folder(tmp_path)
    picture = make_picture(1)
    for number, mode in enumerate(("L", "1", "P", "RGBA")):
        picture.convert(mode).save(tmp_path / "train" / "cat" / f"{number:03d}.png")
    source = open_data(str(tmp_path)).train
    for index in (0, 1):
        grey = source.image(index, 32)
        assert torch.equal(grey, grey[:1].expand(3, -1, -1))
    expected = to_pixels(centre_crop(picture, 32)).int()
    assert (source.image(2, 32).int() - expected).abs().float().mean() < 20
    assert torch.equal(source.image(3, 32).int(), expected)


def test_sixteen_bit_grey_keeps_its_contrast(tmp_path):
    make_folder(tmp_path)
    ramp = np.tile(np.arange(0, 65536, 256, dtype=np.uint16), (256, 1))
    Image.fromarray(ramp).save(tmp_path / "val" / "cat" / "000.png")
    pixels = open_data(str(tmp_path)).val.image(0, 224)
    assert pixels[0, 100].tolist() == list(range(16, 240))


def test_digest_notices_a_file_that_changed_moved_or_went(tmp_path):
    make_folder(tmp_path / "a", train=3)
    make_folder(tmp_path / "b", train=3)
    first = open_data(str(tmp_path / "a")).digest
    assert first.startswith("sha256:")
    assert open_data(str(tmp_path / "b")).digest == first
    make_picture(99, (80, 80)).save(tmp_path / "b" / "train" / "cat" / "000.png")
    assert open_data(str(tmp_path / "b")).digest != first
    os.rename(tmp_path / "a/train/cat/000.png", tmp_path / "a/train/dog/zzz.png")
    moved = open_data(str(tmp_path / "a")).digest
    (tmp_path / "a/train/dog/zzz.png").unlink()
    assert len({first, moved, open_data(str(tmp_path / "a")).digest}) == 3


def test_a_missing_path_is_told(tmp_path):
    text = message(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text
    assert "train/CLASS/" in text


def test_a_file_instead_of_a_folder_is_told(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "is a file" in message(tmp_path / "data.zip")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_told_with_what_is_there(tmp_path, split):
    make_folder(tmp_path)
    os.rename(tmp_path / split, tmp_path / "test")
    text = message(tmp_path)
    assert f"no {split}/" in text
    assert "test/" in text


def test_an_empty_class_folder_is_named(tmp_path):
    make_folder(tmp_path)
    for file in (tmp_path / "val" / "dog").iterdir():
        file.unlink()
    assert f"{tmp_path.resolve() / 'val' / 'dog'} holds no pictures" in message(tmp_path)


def test_class_sets_that_differ_are_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    assert "val lacks the class folder 'emu'" in message(tmp_path)
    os.rename(tmp_path / "train" / "emu", tmp_path / "val" / "yak")
    assert "train lacks the class folder 'yak'" in message(tmp_path)


@pytest.mark.parametrize(("classes", "found"), [(("cat",), "only 'cat'"), ((), "holds nothing")])
def test_fewer_than_two_classes_are_told(tmp_path, classes, found):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    make_folder(tmp_path / "x", classes=classes)
    for split in ("train", "val"):
        if classes:
            os.rename(tmp_path / "x" / split / "cat", tmp_path / split / "cat")
    text = message(tmp_path)
    assert "at least 2 class folders" in text
    assert found in text


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_picture_is_named(tmp_path, suffix, workers):
    make_folder(tmp_path, suffix=suffix)
    broken = truncate(tmp_path / "train" / "dog" / f"001{suffix}")
    data = open_data(str(tmp_path))
    batches = train_batches(
        data, image_size=32, batch_size=4, seed=0, start_step=0, steps=3, workers=workers
    )
    with pytest.raises(DmcpError) as caught:
        list(batches)
    text = str(caught.value)
    assert f"The picture {broken.resolve()} cannot be read" in text
    assert "\n" not in text
    with pytest.raises(DmcpError, match=r"001\.\w+ cannot be read"):
        read_all(tmp_path, workers)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "val" / "owl" / "000.png").write_text("not a picture")
    with pytest.raises(DmcpError, match=r"owl/000\.png .*not a picture in a known format"):
        read_all(tmp_path)


def test_a_picture_that_went_meanwhile_is_named(tmp_path):
    data = open_data(str(make_folder(tmp_path)))
    (tmp_path / "val" / "cat" / "000.png").unlink()
    with pytest.raises(DmcpError, match=r"cat/000\.png .*No such file"):
        data.val.image(0, 32)
