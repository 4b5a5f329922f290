"""WebDataset shards: the same batches as from an image folder, and nothing unpickled."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from picture_folders import make_folder, make_picture
from picture_shards import make_shards, write_shard

from dmcp_deploy import extras
from dmcp_deploy.data import datasets_shards
from dmcp_deploy.data.datasets import open_data
from dmcp_deploy.data.loader import train_batches
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError

SHARDS = {"train": 24 // 5 + 1, "val": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"), train=8, val=3, suffix=".jpg")


@pytest.fixture
def shards(pictures, tmp_path) -> Path:
    return make_shards(tmp_path / "shards", pictures)


def opened(folder: Path | str) -> ImageData:
    """Opens shards with an index that no other test has made."""
    root = folder.parent if isinstance(folder, Path) else None
    return open_data(f"webdataset:{folder}", root=root)


def refused(folder: Path) -> str:
    with pytest.raises(DmcpError) as caught:
        opened(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def jpeg(seed: int = 0) -> bytes:
    content = io.BytesIO()
    make_picture(seed).save(content, "JPEG")
    return content.getvalue()


def batches(data: ImageData, start: int = 0, **options):
    options = {"image_size": 32, "batch_size": 4, "seed": 3, "steps": 9 - start, **options}
    return list(train_batches(data, start_step=start, **options))


def same(one, other) -> bool:
    assert len(one) == len(other) > 0
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(one, other, strict=True)
    )


def test_shards_give_the_batches_of_the_folder_they_were_made_of(shards, pictures):
    data, folder = opened(shards), open_data(str(pictures))
    assert len(list(shards.glob("train-*.tar"))) == SHARDS["train"]
    assert torch.equal(data.val.labels, folder.val.labels)
    assert data.classes == ("0", "1", "2")
    assert data.name == f"webdataset:{shards.resolve()}"
    assert "24 training and 9 validation pictures in 5 and 2 shards, 3 classes" in data.note
    assert same(batches(data), batches(folder))
    assert data.train.stored_bytes(5) == folder.train.stored_bytes(5) > 0


def test_a_later_start_workers_and_ranks_give_the_same_batches(shards):
    data = opened(shards)
    whole = batches(data)
    assert same(whole[4:], batches(data, start=4, workers=2))
    ranks = [batches(data, batch_size=2, rank=rank, world=2) for rank in range(2)]
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([own[number].images for own in ranks]), batch.images)


def test_the_name_opens_the_data_again_and_the_digest_is_that_of_its_content(shards, tmp_path):
    data = opened(shards)
    assert open_data(data.name, root=tmp_path).digest == data.digest
    moved = tmp_path / "elsewhere" / "shards"
    moved.parent.mkdir()
    os.rename(shards, moved)
    assert opened(moved).digest == data.digest
    write_shard(moved / "train-001.tar", [("x", {"jpg": jpeg(), "cls": b"2"})])
    assert opened(moved).digest != data.digest


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (["train-00.tar", "train-01.tar", "val-00.tar", "test-00.tar"], (2, 1)),
        (["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"], (1, 1)),
        (["train/000.tar", "train/001.tar", "val/000.tar"], (2, 1)),
        (["retrained-0.tar", "data_train_0.tar", "data_VAL_0.tar"], (1, 1)),
    ],
)
def test_the_split_is_a_word_of_the_shards_name(tmp_path, names, counts):
    for number, name in enumerate(names):
        members = {"jpg": jpeg(), "cls": b"%d" % (number % 2)}
        write_shard(tmp_path / "set" / name, [("a", members), ("b", {**members, "cls": b"1"})])
    data = opened(tmp_path / "set")
    assert (len(data.train), len(data.val)) == tuple(2 * count for count in counts)


def test_labels_come_from_cls_or_json_and_other_members_are_passed_over(tmp_path):
    told = json.dumps({"label": 2, "caption": "x"}).encode()
    samples = [
        ("a.b/x", {"txt": b"a cat", "JPG": jpeg(1), "seg.png": b"no picture", "cls": b" 1\n"}),
        ("y", {"json": told, "png": jpeg(2)}),
        ("z", {"json": b'{"cls": 0}', "jpeg": jpeg(3)}),
        ("__index__", {"json": b"[1]"}),
    ]
    for split in ("train", "val"):
        write_shard(tmp_path / "set" / f"{split}-0.tar", samples)
    data = opened(tmp_path / "set")
    assert data.val.labels.tolist() == [1, 2, 0]
    expected = [make_picture(seed).size for seed in (1, 2, 3)]
    assert [data.val.picture(number).size for number in range(3)] == expected


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def test_pickled_members_are_never_decoded(tmp_path):
    trace = tmp_path / "trace"
    evil = pickle.dumps(Evil(trace))
    pickle.loads(evil)
    assert trace.exists()
    trace.unlink()
    endings = ("pyd", "pkl", "pickle", "pth", "npy")
    members = {"jpg": jpeg(), "cls": b"1", **dict.fromkeys(endings, evil)}
    for split in ("train", "val"):
        write_shard(tmp_path / "set" / f"{split}-0.tar", [("a", members)])
    data = opened(tmp_path / "set")
    assert len(batches(data, batch_size=1, steps=1)) == 1
    assert not trace.exists()


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"cls": b"1"}, "sample bad in .* has no picture"),
        ({"jpg": b"x"}, "sample bad in .* has no label"),
        ({"jpg": b"x", "json": b'{"label": "dog"}'}, "has no label"),
        ({"jpg": b"x", "json": b"[1, 2]"}, "has no label"),
        ({"jpg": b"x", "json": b"{"}, "label of bad in .* cannot be read"),
        ({"jpg": b"x", "json": b"[" * 100_000}, "label of bad in .* cannot be read"),
        ({"jpg": b"x", "cls": b"dog"}, "label of bad in .* cannot be read"),
        ({"jpg": b"x", "cls": b"\xff"}, "label of bad in .* cannot be read"),
        ({"jpg": b"x", "cls": b"-1"}, r"it is -1\)"),
        ({"jpg": b"x", "cls": b"9999999"}, "from 0 to 99999"),
        ({"jpg": b"x", "cls": b"1" * 2_000_000}, "it has 2000000 bytes"),
    ],
)
def test_samples_that_are_not_whole_are_named(shards, members, told):
    write_shard(shards / "train-002.tar", [("ok", {"jpg": b"x", "cls": b"0"}), ("bad", members)])
    with pytest.raises(DmcpError, match=told) as caught:
        opened(shards)
    assert "train-002.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_shards_are_named(shards):
    shard = shards / "train-001.tar"
    good = shard.read_bytes()
    with tarfile.open(shard) as tar:
        third = tar.getmembers()[2]
    flaws = {
        "truncated in a picture": good[: third.offset_data + 20],
        "truncated in a head": good[: third.offset + 100],
        "no head in the middle": good[: third.offset] + b"\x07" * 512 + good[third.offset + 512 :],
        "compressed": gzip.compress(good),
        "empty": b"",
        "no tar": b"hello" * 1000,
    }
    for flaw, content in flaws.items():
        shard.write_bytes(content)
        text = refused(shards)
        assert f"{shard.resolve()} is not a whole, uncompressed tar" in text, flaw
    shard.write_bytes(good)
    assert len(opened(shards).train) == 24


def test_folders_without_shards_for_a_split_are_told(shards, tmp_path):
    for path in shards.glob("val-*"):
        path.unlink()
    assert "has no val shards, it holds train-000.tar" in refused(shards)
    assert "There is no folder" in refused(tmp_path / "nowhere")
    write_shard(shards / "val-0.tar", [])
    assert "val shards" in refused(shards)
    with pytest.raises(DmcpError, match="give webdataset: and the folder"):
        open_data(str(shards / "train-000.tar"))


def test_a_broken_picture_is_named_with_its_shard(shards):
    samples = [("cat/001", {"jpg": jpeg()[:400], "cls": b"0"})]
    write_shard(shards / "val-000.tar", samples)
    data = opened(shards)
    with pytest.raises(DmcpError, match=r"cat/001\.jpg in .*val-000\.tar cannot be read"):
        data.val.picture(0)


def test_formats_that_start_other_programs_are_refused(shards):
    eps = io.BytesIO()
    make_picture(0).save(eps, "EPS")
    write_shard(shards / "val-000.tar", [("x", {"jpg": eps.getvalue(), "cls": b"0"})])
    with pytest.raises(DmcpError, match="not a picture in a known format"):
        opened(shards).val.picture(0)


def test_a_shard_cut_since_it_was_indexed_is_named(shards):
    data = opened(shards)
    shard = shards / "val-001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(DmcpError, match=r"val-001\.tar cannot be read"):
        data.val.picture(8)


def test_the_index_is_made_once_and_anew_for_shards_that_changed(shards, tmp_path, monkeypatch):
    made = []
    real = datasets_shards.index_shard

    def index_shard(path: Path):
        made.append(path.name)
        return real(path)

    monkeypatch.setattr(datasets_shards, "index_shard", index_shard)
    first = opened(shards)
    assert len(made) == sum(SHARDS.values())
    made.clear()
    again = opened(shards)
    assert made == []
    assert again.digest == first.digest
    assert same(batches(again), batches(first))
    os.utime(shards / "val-001.tar", (1, 1))
    assert opened(shards).digest == first.digest
    assert made == ["val-001.tar"]
    made.clear()
    (index,) = (tmp_path / "webdataset").glob("*.json")
    index.write_text(index.read_text().replace('"labels": "0', '"labels": "zero'))
    assert opened(shards).digest == first.digest
    assert len(made) == sum(SHARDS.values())


def test_without_a_place_for_the_index_it_is_made_anew(shards, tmp_path):
    (tmp_path / "file").touch()
    data = open_data(f"webdataset:{shards}", root=tmp_path / "file" / "none")
    assert len(data.train) == 24


def test_urls_need_the_library(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "is_installed", lambda name: False)
    with pytest.raises(DmcpError, match=r"pip install 'dmcp-deploy\[webdataset\]'"):
        open_data("webdataset:http://127.0.0.1/{train,val}.tar", root=tmp_path)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("pipe://touch {trace}/train-0.tar", "must begin with one of http"),
        ("s3://bucket/train-0.tar", "must begin with one of http"),
        ("file:///data/train-0.tar", "give their folder"),
        ("http://host/{train-0,val-0", "braces"),
        ("http://host/train-0.zip", "not that of a .tar file"),
        ("http://host/{a,b}/x/train-0.tar", "like others"),
        ("http://host/train-{000000..999999}.tar", "over 100,000 shards"),
    ],
)
def test_addresses_that_are_not_understood_are_told(address, told, tmp_path):
    pytest.importorskip("braceexpand", reason="the package webdataset is absent")
    trace = tmp_path / "trace"
    with pytest.raises(DmcpError, match=told):
        open_data(f"webdataset:{address.replace('{trace}', str(trace))}", root=tmp_path)
    assert not trace.exists()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(shards) -> Iterator[str]:
    served = partial(_Quiet, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.slow
def test_shards_behind_urls_are_fetched_once(server, shards, tmp_path):
    pytest.importorskip("webdataset", reason="the package webdataset is absent")
    address = f"{server}/{{train-{{000..004}},val-{{000..001}}}}.tar"
    hidden = (shards / "val-001.tar").rename(tmp_path / "hidden")
    with pytest.raises(DmcpError, match=r"val-001\.tar could not be fetched .*status 22"):
        open_data(f"webdataset:{address}", root=tmp_path)
    fetched = tmp_path / "webdataset"
    assert len(list(fetched.glob("*/*.tar"))) == 6
    assert not list(fetched.rglob("*.part"))
    hidden.rename(shards / "val-001.tar")
    data = open_data(f"webdataset:{address}", root=tmp_path)
    assert data.name == f"webdataset:{address}"
    assert same(batches(data), batches(opened(shards)))
    for path in shards.glob("*.tar"):
        path.unlink()
    assert open_data(data.name, root=tmp_path).digest == data.digest


@pytest.mark.slow
def test_the_library_itself_reads_the_same_samples(shards):
    webdataset = pytest.importorskip("webdataset", reason="the package webdataset is absent")
    data = opened(shards)
    paths = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    found = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [int(sample["cls"]) for sample in found] == data.train.labels.tolist()
    assert [len(sample["jpg"]) for sample in found] == [
        data.train.stored_bytes(number) for number in range(24)
    ]
