"""What lies where in a WebDataset shard: found once, then read picture by picture.

A shard is a plain tar of samples; members of one sample follow one another and share their name up
to its first dot: NAME.jpg and NAME.cls. Members are never unpacked to disk, and only the numbers
in .cls and .json files are decoded here; all others but pictures are passed over.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dmcp_deploy.data.sources import PICTURES
from dmcp_deploy.errors import DmcpError, reason_of

_COLUMNS = ("offsets", "sizes", "labels")
_LABEL_BYTES = 1 << 20
_MOST_LABELS = 100_000
_META = re.compile(r"(^|/)__[^/]*__(/|$)")  # the library's own marks, which are no samples


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard, in its order.

    Attributes:
        file_bytes: The shard's size.
        mtime_ns: When it was written.
        offsets: Where each picture starts, int64 [N].
        sizes: Its bytes, int64 [N].
        labels: Its class, int64 [N].
    """

    file_bytes: int
    mtime_ns: int
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def is_of(self, path: Path) -> bool:
        """Returns whether the file is still the one that was indexed, by its size and time."""
        found = path.stat()
        return (found.st_size, found.st_mtime_ns) == (self.file_bytes, self.mtime_ns)

    def to_json(self) -> dict[str, Any]:
        """Returns the index as JSON values; columns are numbers in one string each."""
        columns = {name: " ".join(map(str, getattr(self, name).tolist())) for name in _COLUMNS}
        return {"file_bytes": self.file_bytes, "mtime_ns": self.mtime_ns, **columns}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ShardIndex:
        """Returns the index that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: A value is missing or damaged.
        """
        columns = [np.array(content[name].split(), dtype=np.int64) for name in _COLUMNS]
        if len({len(column) for column in columns}) != 1:
            raise ValueError("columns differ in length")
        return cls(int(content["file_bytes"]), int(content["mtime_ns"]), *columns)


def index_shard(path: Path) -> ShardIndex:
    """Returns where the pictures of a shard lie, and their labels.

    Raises:
        DmcpError: It cannot be read, is no plain tar or damaged, or a sample in it has no picture
            or no label.
    """
    try:
        found = path.stat()
        samples = list(_samples(path, found.st_size))
    except OSError as err:
        raise DmcpError(f"Cannot read the shard {path}: {reason_of(err)}.") from err
    except tarfile.TarError as err:
        raise DmcpError(
            f"The shard {path} is not a whole, uncompressed tar file ({reason_of(err)}): fetch it"
            " again, or unpack it if it is compressed."
        ) from err
    columns = np.array(samples, dtype=np.int64).reshape(-1, len(_COLUMNS)).T
    return ShardIndex(found.st_size, found.st_mtime_ns, *columns)


class _Sample(NamedTuple):
    offset: int
    size: int
    label: int


def _samples(path: Path, file_bytes: int) -> Iterator[_Sample]:
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for key, group in itertools.groupby(_members(tar), lambda member: _split(member)[0]):
            members = {_split(member)[1]: member for member in group}
            if any(m.offset_data + m.size > file_bytes for m in members.values()):
                raise tarfile.ReadError(f"it ends within the sample {key}")
            picture = next((members[each] for each in PICTURES if each in members), None)
            if picture is None:
                raise _lacks(path, key, f"picture ({', '.join(f'.{each}' for each in PICTURES)})")
            label = _label(functools.partial(_content, file), members, f"{key} in {path}")
            if label is None:
                raise _lacks(path, key, "label (.cls, or .json with a number as its label)")
            yield _Sample(picture.offset_data, picture.size, label)
        # tarfile takes a damaged head for the archive's end.
        file.seek(tar.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"no member's head at byte {tar.offset}")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.isreg() and not member.issparse() and not _META.search(_split(member)[0]):
            yield member


def _split(member: tarfile.TarInfo) -> tuple[str, str]:
    """Returns a member's sample and its ending: ("a/b", "seg.png") of a/b.seg.png."""
    folder, slash, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _content(file: BinaryIO, member: tarfile.TarInfo) -> str:
    if member.size > _LABEL_BYTES:
        raise ValueError(f"it has {member.size} bytes")
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8")


def _label(read: Any, members: dict[str, tarfile.TarInfo], where: str) -> int | None:
    try:
        if "cls" in members:
            return _checked(int(read(members["cls"]).strip()))
        if "json" not in members:
            return None
        content = json.loads(read(members["json"]))
        value = content.get("label", content.get("cls")) if isinstance(content, dict) else None
        return _checked(value) if type(value) is int else None
    except (ValueError, RecursionError) as err:
        raise DmcpError(
            f"The label of {where} cannot be read ({err}): it must be a number from 0 to"
            f" {_MOST_LABELS - 1}."
        ) from err


def _checked(label: int) -> int:
    if not 0 <= label < _MOST_LABELS:
        raise ValueError(f"it is {label}")
    return label


def _lacks(path: Path, key: str, what: str) -> DmcpError:
    return DmcpError(
        f"The sample {key} in {path} has no {what}: its members must follow one another and be"
        " named alike up to the first dot."
    )
