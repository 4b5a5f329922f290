"""A published file -> what it says of layers; the format is told by the content."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.published import layer_channels, mmrazor, npy, timm_shapes
from dmcp_deploy.published.widths import PublishedPlan
from dmcp_deploy.registry import choose

_MOST_BYTES = 1 << 20


def _text(read: Callable[[str], PublishedPlan]) -> Callable[[bytes], PublishedPlan]:
    def read_bytes(data: bytes) -> PublishedPlan:
        try:
            return read(data.decode("utf-8-sig"))
        except UnicodeDecodeError as err:
            raise DmcpError(f"it is no text ({err}).") from err

    return read_bytes


#: Format -> what reads it.
FORMATS: dict[str, Callable[[bytes], PublishedPlan]] = {
    npy.FORM: npy.read_npy,
    mmrazor.FORM: _text(mmrazor.read_mmrazor),
    timm_shapes.FORM: _text(timm_shapes.read_timm),
    layer_channels.FORM: _text(layer_channels.read_layers),
}

#: How each format's files begin.
_STARTS = {
    npy.FORM: re.compile(re.escape(npy.MAGIC)),
    timm_shapes.FORM: re.compile(rb"(\xef\xbb\xbf)?\s*[\w.]+:\["),
    layer_channels.FORM: re.compile(
        rb"(\xef\xbb\xbf)?\s*\{\s*\"[\w.]+\"\s*:\s*-?\d{1,9}(\.\d+)?\s*[,}]"
    ),
    mmrazor.FORM: re.compile(rb"(\xef\xbb\xbf)?(---\s|#.*\n|\s)*([\[{]|[\w.]+:\s*(#.*)?\n)"),
}


def read_published(path: Path, form: str | None = None) -> PublishedPlan:
    """Returns what a published file says of a network's layers.

    Args:
        path: The file.
        form: Its format, one of `FORMATS`; None tells it by the content.

    Raises:
        DmcpError: There is no such file, or it is of no format or damaged.
    """
    if form is not None:
        choose("--format", form, FORMATS)
    data = _read(path)
    form = form or _recognised(path, data)
    try:
        return FORMATS[form](data)
    except DmcpError as err:
        raise DmcpError(f"{path} is not a plan in the format {form}: {err}") from err


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise DmcpError(f"{path} is a folder: name the file in it (the authors' is sample.npy).")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as err:
        raise DmcpError(f"There is no file {path}.") from err
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    if not data.strip():
        raise DmcpError(f"{path} is empty.")
    if len(data) > _MOST_BYTES:
        raise DmcpError(f"{path} is larger than {_MOST_BYTES} bytes, and no published plan is.")
    return data


def _recognised(path: Path, data: bytes) -> str:
    form = next((form for form, start in _STARTS.items() if start.match(data)), None)
    if form is None:
        raise DmcpError(
            f"{path} is in none of the formats {', '.join(FORMATS)} (--format forces one)."
        )
    return form
