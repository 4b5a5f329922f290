"""Files of weights as people have them: named tensors, wherever they lie in a file."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.registry import near_matches
from dmcp_deploy.training.weights import read_tensors, versions_of

#: What torch.load raises, but for OSError, on files that are damaged or hold more than tensors.
_NO_TENSORS = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError),
    *(LookupError, AssertionError, struct.error),
)

_SUFFIX = ".safetensors"

#: How files begin that are something else than their names say, and what to do about it.
_OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull` where it is from"),
    (b"<", "a page of the web or other text: fetch the file itself"),
    (b"{", "JSON, as the index of several files is: give one file with all of the weights"),
)


@dataclass(frozen=True)
class Stored:
    """Named tensors that lie in one place of a file.

    Attributes:
        place: The keys on the way to them, joined by dots; "" for the file's top.
        tensors: Name -> tensor; torch's own dictionaries bring the versions of modules along.
    """

    place: str
    tensors: Mapping[str, Tensor]


def stored_weights(path: Path) -> list[Stored]:
    """Returns all named tensors of a safetensors or torch file, place by place.

    Torch files are read without running what is pickled in them.

    Raises:
        DmcpError: The file is absent or damaged, holds more than tensors, or none.
    """
    beginning = _beginning(path)
    if _is_safetensors(path, beginning):
        return [Stored("", read_tensors(path))]
    stored = list(_places(_read_torch(path, beginning), ""))
    if not stored:
        raise DmcpError(f"The weights file {path} holds no state dict of tensors.")
    return stored


def split_source(source: str) -> tuple[Path, str]:
    """Returns the file that "FILE" or "FILE:PLACE" names, and the place in it, "" for any.

    Raises:
        DmcpError: There is no such file.
    """
    path, (file, _, place) = Path(source), source.rpartition(":")
    if path.is_file():
        return path, ""
    if file and Path(file).is_file():
        return Path(file), place
    if "://" in source:
        raise DmcpError(f"The weights {source} are an address: fetch the file, and name that.")
    what = "{} is a folder" if path.is_dir() else "There is no weights file {}"
    raise DmcpError(
        f"{what.format(path.resolve())}: give none, imagenet, or a file of weights"
        f"{near_matches(path.name, ['imagenet'])}"
    )


def _beginning(path: Path) -> bytes:
    """Returns the first bytes of a file, which tell its format whatever it is called."""
    if not path.is_file():
        raise DmcpError(f"There is no weights file {path}.")
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError as err:
        raise DmcpError(f"Cannot read the weights file {path}: {reason_of(err)}.") from err


def _is_safetensors(path: Path, beginning: bytes) -> bool:
    if beginning[8:9] == b"{":  # after the length of its header
        return True
    known = (b"PK", b"\x80", *(each for each, _ in _OTHER_FILES))
    return Path(path).suffix == _SUFFIX and not beginning.startswith(known)


def _read_torch(path: Path, beginning: bytes) -> Any:
    for start, what in _OTHER_FILES:
        if beginning.startswith(start):
            raise DmcpError(f"The weights file {path} is {what}.")
    if beginning.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise DmcpError(f"The weights file {path} is cut off: fetch or write it again.")
    try:
        with torch.serialization.safe_globals(_harmless_types()), open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except (*_NO_TENSORS, OSError) as err:
        raise DmcpError(
            f"The weights file {path} cannot be read as plain tensors ({_reason(err)}): save"
            " model.state_dict(), best as safetensors."
        ) from err


def _harmless_types() -> list[Any]:
    """Returns what people save beside weights, which torch does not know to be plain data.

    Those are options as argparse gives them, paths, and the numbers and arrays of NumPy.
    """
    array = np.zeros(1)
    rebuild, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    dtypes = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efdSU"]
    named = [(rebuild, "_reconstruct"), (scalar, "scalar")]
    places = ("numpy.core.multiarray", "numpy._core.multiarray")  # NumPy 1 and 2
    return [
        *(argparse.Namespace, pathlib.PosixPath, np.dtype, np.ndarray, *dtypes),
        *((function, f"{place}.{name}") for function, name in named for place in places),
        (pathlib.PosixPath, "pathlib._local.PosixPath"),
    ]


def _places(content: Any, place: str, around: tuple[int, ...] = ()) -> Iterator[Stored]:
    """Yields the dictionaries with tensors in what a file holds, the outer ones first."""
    if id(content) in around:  # a container may hold itself
        return
    around = (*around, id(content))
    if isinstance(content, list | tuple):
        content = {str(number): item for number, item in enumerate(content)}
        content = {key: item for key, item in content.items() if not isinstance(item, Tensor)}
    if not isinstance(content, Mapping):
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if any(isinstance(value, Tensor) for value in named.values()):
        yield Stored(place, _tensors(content))
    for key, value in named.items():
        yield from _places(value, f"{place}.{key}" if place else key, around)


def _tensors(content: Mapping[Any, Any]) -> Mapping[str, Tensor]:
    """Returns the tensors of a dictionary, with the versions of modules where torch noted them."""
    kept = OrderedDict(
        (key, value)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    )
    kept._metadata = versions_of(content)  # type: ignore[attr-defined]
    return kept


def _reason(err: Exception) -> str:
    """Returns what torch.load complains of, without its advice to run what is in the file."""
    refused = re.search(r"Unsupported (global: GLOBAL \S+|operand \d+)", str(err))
    return refused[0] if refused else reason_of(err).partition(". ")[0]
