"""Shards behind URLs, copied once to this machine through the library `webdataset`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from subprocess import TimeoutExpired
from urllib.parse import unquote, urlparse

from dmcp_deploy.artifact import atomic_path
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.extras import require
from dmcp_deploy.progress import Progress

#: Schemes that the library has a reader for and that do not run what the address says.
SCHEMES = ("http", "https", "ais", "ftps", "gs", "hf", "htgs", "scp", "sftp")

_CHUNK_BYTES = 1 << 20
_MOST_SHARDS = 100_000


def fetch_shards(pattern: str, folder: Path, progress: Progress) -> Path:
    """Returns the folder with the shards that an address stands for; they are fetched if need be.

    Training reads pictures in an order of its own, and a resumed run the very same ones: neither
    goes with a stream. A shard that is there already is not fetched again, however the process
    that fetched it ended.

    Args:
        pattern: A URL, or several by braces: https://host/set-{train-{000..099},val-{00..07}}.tar.
        folder: Where the copies go; each shard keeps the last two parts of its address.
        progress: Where to report.

    Raises:
        DmcpError: The library is not installed, the address is not understood, or a shard cannot
            be fetched or stored.
    """
    require("webdataset")
    targets = {folder / _place(url): url for url in _urls(pattern)}
    missing = {path: url for path, url in targets.items() if not path.exists()}
    if missing:
        with progress.task("fetch shards", len(targets), len(targets) - len(missing), "shard") as b:
            for path, url in missing.items():
                _fetch(url, path)
                b.advance()
    return folder


def _urls(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    try:
        urls = [url for url, _ in zip(braceexpand(pattern), range(_MOST_SHARDS + 1), strict=False)]
    except ValueError as err:
        raise DmcpError(f"The braces in the address {pattern} do not close.") from err
    if len(urls) > _MOST_SHARDS:
        raise DmcpError(f"The address {pattern} stands for over {_MOST_SHARDS:,} shards.")
    for url in urls:
        scheme = urlparse(url).scheme
        if scheme not in SCHEMES:
            raise DmcpError(
                f"The address {url} begins with {scheme}: and must begin with one of"
                f" {', '.join(SCHEMES)}; copy the shards to this machine, and give their folder."
            )
    doubles = len(urls) - len({_place(url) for url in urls})
    if doubles:
        raise DmcpError(
            f"The address {pattern} names {doubles} shards like others: the last two parts of their"
            " addresses must differ."
        )
    return urls


def _place(url: str) -> Path:
    parts = [part for part in unquote(urlparse(url).path).split("/") if part.strip(".")]
    kept = [re.sub(r"[^\w.=+-]", "_", part) for part in parts[-2:]]
    if not kept or not kept[-1].endswith(".tar"):
        raise DmcpError(f"The address {url} is not that of a .tar file.")
    return Path(*kept)


def _fetch(url: str, path: Path) -> None:
    with atomic_path(path) as part, part.open("wb") as file:
        for chunk in _chunks(url):
            file.write(chunk)


def _chunks(url: str) -> Iterator[bytes]:
    """Yields a shard's bytes; an error in getting them is not one in writing them."""
    from webdataset.gopen import gopen

    try:
        with gopen(url, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except (OSError, ValueError, ImportError, TimeoutExpired) as err:
        raise DmcpError(
            f"The shard {url} could not be fetched ({_reason(err)}): check the address and the"
            " connection; the same command goes on with what is missing."
        ) from err


def _reason(err: Exception) -> str:
    # The library tells its whole command line, in which a token may stand.
    if ended := re.search(r"exit (-?\d+)", str(err)):
        return f"its reader ended with status {ended[1]}"
    missing = err.filename if isinstance(err, FileNotFoundError) else None
    return f"the program {missing} is missing" if missing else reason_of(err)
