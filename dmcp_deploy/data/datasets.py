"""Data sets by name, folder or shards."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from dmcp_deploy.data.datasets_arrays import open_fashion_mnist
from dmcp_deploy.data.datasets_files import open_elpv, open_folder
from dmcp_deploy.data.datasets_shards import open_shards
from dmcp_deploy.data.datasets_torchvision import NAMES, open_torchvision
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.registry import near_matches

DEFAULT = "elpv"

_NAMED = ("elpv", "fashion-mnist")


def open_data(
    source: str | None, *, root: Path | None = None, progress: Progress = NO_PROGRESS
) -> ImageData:
    """Returns the data set that a name or a path stands for; pictures are not read yet.

    Args:
        source: "elpv", "fashion-mnist", "torchvision:NAME", a folder with train/CLASS/ and
            val/CLASS/ (also as "folder:PATH", the name that such a data set bears), or
            "webdataset:PLACE" with a folder of shards or their URLs. None is elpv.
        root: Where "fashion-mnist" and "torchvision:NAME" are looked for and downloaded to, and
            fetched shards and their index are kept; the user's cache folder by default.
        progress: Where the indexing and fetching of shards is reported.

    Raises:
        DmcpError: The source is unknown, absent, incomplete or damaged.
    """
    name = DEFAULT if source is None else str(source)
    if name.lower() == "elpv":
        return open_elpv()
    if name.lower() == "fashion-mnist":
        return open_fashion_mnist(root)
    kind, colon, rest = name.partition(":")
    if colon and kind.lower() == "torchvision":
        return open_torchvision(rest, root)
    if colon and kind.lower() == "webdataset":
        return open_shards(rest, root, progress)
    path = Path(os.path.expanduser(rest if colon and kind == "folder" else name))
    if path.is_dir():
        return open_folder(path)
    raise _unknown(name, path)


def _unknown(name: str, path: Path) -> DmcpError:
    if path.suffix == ".tar":
        return DmcpError(
            f"The data {name!r} is named like a shard: give webdataset: and the folder of all"
            " shards, named as in train-000.tar and val-000.tar."
        )
    if path.exists():
        return DmcpError(
            f"The data {name!r} is a file: give a folder with train/CLASS/ and val/CLASS/, unpacked"
            " if need be."
        )
    names = [*_NAMED, *(f"torchvision:{known}" for known in NAMES), *_folders_beside(path)]
    return DmcpError(
        f"There is neither a folder nor a data set {name!r}: give a folder with train/CLASS/ and"
        f" val/CLASS/, {', '.join(_NAMED)}, torchvision:NAME or"
        f" webdataset:FOLDER{near_matches(str(path), names)}"
    )


def _folders_beside(path: Path) -> list[str]:
    """Returns the folders that may have been meant by a path where there is none."""
    try:
        beside = sorted(each.name for each in path.parent.iterdir() if each.is_dir())
    except OSError:
        return []
    return [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, beside)]
