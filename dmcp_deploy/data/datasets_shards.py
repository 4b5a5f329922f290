"""Data sets in WebDataset shards: tar files that are read picture by picture, where they lie."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dmcp_deploy.artifact import read_artifact, well_formed, write_artifact
from dmcp_deploy.data.datasets_torchvision import cache_folder
from dmcp_deploy.data.preprocessing import CROP
from dmcp_deploy.data.ranges import with_range
from dmcp_deploy.data.shard_fetch import fetch_shards
from dmcp_deploy.data.shard_index import ShardIndex, index_shard
from dmcp_deploy.data.sources import FORMATS, PictureImages
from dmcp_deploy.data.types import ImageData, digest_of
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.machine.lock import locked
from dmcp_deploy.progress import NO_PROGRESS, Progress

KIND = "shard-index"

_SPLITS = {"train": ("train", "training"), "val": ("val", "validation")}
_LAYOUT = "give a folder with .tar files named as in train-000.tar and val-000.tar"


class ShardImages(PictureImages):
    """The pictures of shards, each read by its place in its file.

    Args:
        shards: File -> what lies in it.
    """

    def __init__(self, shards: Mapping[Path, ShardIndex]) -> None:
        labels = np.concatenate([shard.labels for shard in shards.values()])
        super().__init__(torch.from_numpy(labels), channels=3, resizing=CROP)
        self._paths = list(shards)
        counts = [len(shard.labels) for shard in shards.values()]
        # Arrays, not lists: workers would copy every number of a list as they come to count it.
        self._shard = np.repeat(np.arange(len(counts)), counts)
        self._offsets = np.concatenate([shard.offsets for shard in shards.values()])
        self._sizes = np.concatenate([shard.sizes for shard in shards.values()])

    def stored_bytes(self, index: int) -> int:
        """Returns the bytes that are read from disk for a picture."""
        return int(self._sizes[index])

    def open(self, index: int) -> Image.Image:
        """Returns one picture as it is stored, not decoded yet."""
        size = int(self._sizes[index])
        with self._path(index).open("rb", buffering=0) as file:
            file.seek(int(self._offsets[index]))
            content = file.read(size)
        if len(content) < size:
            raise EOFError("the shard ends within it")
        return Image.open(io.BytesIO(content), formats=FORMATS)

    def where(self, index: int) -> str:
        """Returns a picture's name and shard."""
        path = self._path(index)
        try:
            with path.open("rb") as file:
                file.seek(int(self._offsets[index]) - tarfile.BLOCKSIZE)
                head = file.read(tarfile.BLOCKSIZE)
            return f"{tarfile.TarInfo.frombuf(head, 'utf-8', 'replace').name} in {path}"
        except (OSError, tarfile.HeaderError):
            return f"at byte {int(self._offsets[index])} of {path}"

    def _path(self, index: int) -> Path:
        return self._paths[int(self._shard[index])]


def open_shards(
    place: str, root: Path | None = None, progress: Progress = NO_PROGRESS
) -> ImageData:
    """Returns the data set in WebDataset shards; pictures are not read yet.

    A shard belongs to the split that its name below the folder, or its folder there, names as a
    word: train-000.tar, imagenet1k-validation-07.tar, val/000.tar. Others are passed over. Their
    index is made at the first use, and kept in the user's cache folder.

    Args:
        place: A folder, or URLs that the library `webdataset` reads, with braces for several.
        root: Where index and fetched shards are kept; the user's cache folder by default.
        progress: Where to report.

    Raises:
        DmcpError: There are no shards for a split, or one is damaged or cannot be fetched.
    """
    kept = cache_folder(root) / "webdataset"
    if "://" in place:
        copies = kept / hashlib.sha256(place.encode()).hexdigest()[:16]
        with locked(copies.with_suffix(".fetch-lock")):
            folder, name = fetch_shards(place, copies, progress), place
    else:
        folder = Path(os.path.expanduser(place)).resolve()
        name = str(folder)
    paths = {split: _shards(folder, split) for split in _SPLITS}
    index = _indexed(folder, [path for split in paths.values() for path in split], kept, progress)
    splits = {split: {path: index[path] for path in paths[split]} for split in paths}
    return _data(name, folder, splits)


def _data(name: str, folder: Path, splits: Mapping[str, Mapping[Path, ShardIndex]]) -> ImageData:
    for split, shards in splits.items():
        if not sum(len(shard.labels) for shard in shards.values()):
            raise DmcpError(f"The {split} shards in {folder} hold no samples.")
    train, val = (ShardImages(splits[split]) for split in ("train", "val"))
    count = int(max(train.labels.max(), val.labels.max())) + 1
    if count < 2:
        raise DmcpError(f"The shards in {folder} have one label alone, 0: two are needed.")
    note = (
        f"WebDataset shards {name}: {len(train):,} training and {len(val):,} validation pictures"
        f" in {len(splits['train'])} and {len(splits['val'])} shards, {count} classes; your own"
        " data, under your own terms."
    )
    classes = tuple(map(str, range(count)))
    digest = digest_of(_identity(folder, splits))
    return with_range(
        ImageData(f"webdataset:{name}", note, classes, train, val, "imagenet", digest)
    )


def _shards(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise DmcpError(f"There is no folder {folder} with shards: {_LAYOUT}.")
    try:
        paths = sorted([*folder.glob("*.tar"), *folder.glob("*/*.tar")])
    except OSError as err:
        raise DmcpError(f"Cannot read {folder}: {reason_of(err)}.") from err
    shards = [path for path in paths if _words(path.relative_to(folder)) & set(_SPLITS[split])]
    if not shards:
        names = ", ".join(str(path.relative_to(folder)) for path in paths[:4]) or "no .tar file"
        raise DmcpError(f"The folder {folder} has no {split} shards, it holds {names}: {_LAYOUT}.")
    return shards


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", str(path).lower()))


def _identity(
    folder: Path, splits: Mapping[str, Mapping[Path, ShardIndex]]
) -> Iterator[str | bytes]:
    for split, shards in splits.items():
        for path, shard in shards.items():
            yield f"{split}\0{path.relative_to(folder).as_posix()}\0{shard.file_bytes}"
            for column in (shard.offsets, shard.sizes, shard.labels):
                yield column.astype("<i8").tobytes()


def _indexed(
    folder: Path, paths: list[Path], kept: Path, progress: Progress
) -> dict[Path, ShardIndex]:
    """Returns the index of every shard: the one kept from before where the file is the same."""
    file = kept / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"
    with locked(file.with_suffix(".lock")):
        before = _read_index(file)
        names = {path: path.relative_to(folder).as_posix() for path in paths}
        index = {p: before[n] for p, n in names.items() if n in before and before[n].is_of(p)}
        if len(index) == len(paths):
            return index
        with progress.task("index shards", len(paths), len(index), "shard") as bar:
            for path in paths:
                if path not in index:
                    index[path] = index_shard(path)
                    bar.advance()
        content = {names[path]: shard.to_json() for path, shard in index.items()}
        # Without a place to keep it, it is made anew the next time.
        with contextlib.suppress(DmcpError):
            write_artifact(file, KIND, {"folder": str(folder), "shards": content})
    return index


def _read_index(file: Path) -> dict[str, ShardIndex]:
    try:
        content = read_artifact(file, KIND)
        with well_formed(str(file)):
            return {n: ShardIndex.from_json(each) for n, each in content["shards"].items()}
    except DmcpError:  # absent, or of another release: it can be made again
        return {}
