from __future__ import annotations

import gzip
import importlib.util
import inspect
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_folders import make_idx, make_picture, truncate
from PIL import Image
from torchvision import datasets as torchvision_datasets

from dmcp_deploy.data import datasets_arrays
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.datasets_torchvision import _KNOWN, NAMES
from dmcp_deploy.data.loader import eval_batches
from dmcp_deploy.errors import DmcpError

DEBIAN = datasets_arrays.DEBIAN_FOLDER

elpv = pytest.mark.needs("elpv")
fashion = pytest.mark.needs("fashion-mnist")


@pytest.fixture
def offline(monkeypatch):
    """Every download meets a proxy that is not there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def message(source: str, root: Path | None = None) -> str:
    with pytest.raises(DmcpError) as caught:
        open_data(source, root=root)
    text = str(caught.value)
    assert "\n" not in text
    return text


def elpv_rows() -> list[list[str]]:
    spec = importlib.util.find_spec("elpv_dataset")
    table = Path(spec.submodule_search_locations[0]) / "data" / "labels.csv"
    return [line.split() for line in table.read_text().splitlines()]


@elpv
def test_no_source_is_elpv_with_its_licence():
    data = open_data(None)
    assert data.name == "elpv"
    assert "CC BY-NC-SA 4.0" in data.note
    assert f"{len(data.train):,} training and {len(data.val):,} validation" in data.note
    assert data.augmentation == "turns"
    assert data.digest == open_data("elpv").digest


@elpv
def test_elpv_split_holds_every_cell_once_with_its_label():
    rows = elpv_rows()
    truth = {name: int(float(probability) >= 0.5) for name, probability, _ in rows}
    data = open_data("elpv")
    seen: Counter[str] = Counter()
    for source in (data.train, data.val):
        seen.update(source.names)
        assert [truth[name] for name in source.names] == source.labels.tolist()
    assert seen == Counter(truth.keys())
    assert len(rows) == 2624


@elpv
def test_elpv_split_is_stratified_and_stays_as_it_is():
    data = open_data("elpv")
    assert len(data.val) == pytest.approx(0.25 * 2624, abs=4)
    kind = {name: (probability, kind) for name, probability, kind in elpv_rows()}
    everything = Counter(kind.values())
    for stratum, count in Counter(kind[name] for name in data.val.names).items():
        assert count == pytest.approx(0.25 * everything[stratum], abs=0.5)
    assert data.majority_share == pytest.approx(1803 / 2624, abs=0.003)
    # Published accuracies belong to this very split.
    numbers = [int(name[-8:-4]) for name in data.val.names[:6]]
    assert numbers == [2, 3, 6, 9, 18, 29]


@elpv
def test_elpv_pictures_are_grey_and_whole():
    data = open_data("elpv")
    pixels = data.val.image(5, 96)
    assert pixels.shape == (3, 96, 96)
    assert torch.equal(pixels[0], pixels[2])
    stored = Image.open(Path(data.val.folder) / data.val.names[5])
    assert stored.size == (300, 300)
    assert pixels[0].float().mean() == pytest.approx(np.asarray(stored).mean(), abs=0.5)


def test_elpv_missing_tells_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "elpv_dataset" else real(name)
    )
    assert "pip install dmcp-deploy[demo]" in message("elpv")


@pytest.mark.parametrize(
    "content", ["", "images/cell0001.png 1.0\n", "a b c\n", "x.png 1.0 mono\n"]
)
def test_elpv_damaged_tells_to_reinstall(tmp_path, monkeypatch, content):
    package = tmp_path / "elpv_dataset"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "labels.csv").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert "--force-reinstall elpv-dataset" in message("elpv")


@fashion
def test_fashion_mnist_has_its_counts_classes_and_note():
    data = open_data("fashion-mnist")
    assert (len(data.train), len(data.val)) == (60_000, 10_000)
    assert torch.bincount(data.val.labels).tolist() == [1000] * 10
    assert data.majority_share == pytest.approx(0.1)
    assert data.classes[9] == "Ankle boot"
    assert data.augmentation == "crop"
    assert "60,000 training and 10,000 validation" in data.note
    assert "MIT" in data.note


@fashion
def test_fashion_mnist_at_32_is_padded_and_not_resized():
    data = open_data("fashion-mnist")
    with gzip.open(DEBIAN / "t10k-images-idx3-ubyte.gz") as file:
        first = np.frombuffer(file.read(16 + 784)[16:], dtype=np.uint8).reshape(28, 28)
    pixels = data.val.image(0, 32)
    assert torch.equal(pixels[1, 2:30, 2:30], torch.from_numpy(first.copy()))
    assert pixels[:, :2].max() == 0
    assert pixels[:, :, 30:].max() == 0
    assert data.val.image(0, 64).shape == (3, 64, 64)
    assert data.val.image(0, 64)[0].float().mean() == pytest.approx(first.mean(), rel=0.05)


@fashion
def test_fashion_mnist_by_torchvision_is_the_same_data(tmp_path, offline, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in DEBIAN.glob("*.gz"):
        with gzip.open(file) as packed, (raw / file.stem).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    debian = open_data("fashion-mnist")
    by_name = open_data("torchvision:fashionmnist", root=tmp_path)
    assert by_name.name == "torchvision:FashionMNIST"
    monkeypatch.setattr(datasets_arrays, "DEBIAN_FOLDER", tmp_path / "nowhere")
    fallback = open_data("fashion-mnist", root=tmp_path)
    assert fallback.name == "fashion-mnist"
    assert "MIT" in fallback.note
    assert fallback.digest == by_name.digest == debian.digest
    assert fallback.classes == debian.classes
    for data in (by_name, fallback):
        assert torch.equal(data.val.image(7, 32), debian.val.image(7, 32))


def test_fashion_mnist_nowhere_names_both_remedies(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(datasets_arrays, "DEBIAN_FOLDER", tmp_path / "nowhere")
    text = message("fashion-mnist", tmp_path / "cache")
    assert "apt-get install dataset-fashion-mnist" in text
    assert "internet" in text


def idx_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 20)):
        make_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        make_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return folder


def read_both(root: Path) -> None:
    data = open_data("fashion-mnist", root=root)
    for source in (data.train, data.val):
        list(eval_batches(source, image_size=32, batch_size=10))


def test_idx_files_in_root_come_first(tmp_path):
    data = open_data("fashion-mnist", root=idx_folder(tmp_path))
    assert (len(data.train), len(data.val)) == (40, 20)
    read_both(tmp_path)


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"])
def test_damaged_idx_files_are_named(tmp_path, name):
    file = idx_folder(tmp_path) / name
    good = file.read_bytes()
    dimensions = 1 if "labels" in name else 3
    values = np.zeros((20, 28, 28)[:dimensions])
    packed = gzip.decompress(good)
    flaws = {
        "truncated gzip": lambda: truncate(file),
        "no gzip": lambda: file.write_bytes(b"hello"),
        "magic number 0000080": lambda: make_idx(file, values, magic=0xD03),
        "head announces": lambda: file.write_bytes(gzip.compress(packed[:-1])),
    }
    for flaw, make in flaws.items():
        file.write_bytes(good)
        make()
        with pytest.raises(DmcpError) as caught:
            read_both(tmp_path)
        text = str(caught.value)
        assert f"{file} is damaged" in text, flaw
        assert "\n" not in text
        if flaw[:2] in ("ma", "he"):
            assert flaw in text
    file.unlink()
    if "labels" not in name:
        with pytest.raises(DmcpError, match=f"{name} is missing"):
            read_both(tmp_path)


def test_labels_beyond_the_classes_and_odd_counts_are_told(tmp_path):
    idx_folder(tmp_path)
    make_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(40))
    assert "not all in 0 to 9" in message("fashion-mnist", tmp_path)
    make_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(39) % 10)
    with pytest.raises(DmcpError, match="40 pictures for 39 labels"):
        read_both(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_known_torchvision_names_take_these_arguments(name):
    arguments = inspect.signature(getattr(torchvision_datasets, name).__init__).parameters
    assert {"root", "download", _KNOWN[name].argument} <= arguments.keys()


def test_offline_download_is_one_sentence(tmp_path, offline):
    text = message("torchvision:CIFAR10", tmp_path)
    assert "could not fetch CIFAR10" in text
    assert str(tmp_path) in text


def test_torchvision_picture_files_are_read_one_by_one(tmp_path):
    for split, count in (("train", 3), ("valid", 2)):
        for number, country in enumerate(("AD", "AE")):
            folder = tmp_path / "country211" / split / country
            folder.mkdir(parents=True)
            for each in range(count):
                make_picture(10 * number + each).save(folder / f"{each}.png")
    data = open_data("torchvision:Country211", root=tmp_path)
    assert data.classes == ("AD", "AE")
    assert data.augmentation == "imagenet"
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.val.image(3, 32).shape == (3, 32, 32)
    truncate(tmp_path / "country211" / "valid" / "AE" / "1.png")
    with pytest.raises(DmcpError, match="number 3 of torchvision:Country211 cannot be read"):
        data.val.image(3, 48)


@pytest.mark.parametrize(
    ("source", "meant"),
    [("fashion-minst", "fashion-mnist"), ("elvp", "elpv"), ("torchvision:CIFAR-10", "cifar10")],
)
def test_unknown_names_get_near_matches(source, meant):
    text = message(source)
    assert source in text
    assert f"did you mean {meant}" in text


def test_unknown_names_get_the_choice():
    text = message("zzzz")
    for choice in ("train/CLASS/", "elpv", "fashion-mnist", "torchvision:NAME"):
        assert choice in text
