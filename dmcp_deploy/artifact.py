"""Files that stages hand to one another: versioned JSON, digests, atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dmcp_deploy import __version__
from dmcp_deploy.errors import DmcpError, reason_of

SCHEMA_VERSION = 1


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place once the block has succeeded.

    The file is flushed to disk before the rename, so that a reader sees the old content or the
    new one and never a part. If the block raises, nothing is left behind.

    Raises:
        DmcpError: The folder cannot be written to, a folder lies there, or the disk is full.
    """
    path = Path(path)
    part = _make_part(path)
    try:
        yield part
        _flush(part)
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as err:
        raise DmcpError(f"Cannot write {path}: {reason_of(err)}.") from err
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Checks that a file can be written, before the work whose result it shall hold.

    Raises:
        DmcpError: The folder cannot be written to, or a folder lies there.
    """
    _make_part(Path(path)).unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one step (see `atomic_path`)."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Turns what a file's values raise on being read into a sentence about the file.

    Args:
        what: The file, as a sentence about it begins.

    Raises:
        DmcpError: A value is missing, of another type, or refused by what it is read into.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
        raise DmcpError(f"{what} lacks or misstates {err}.") from err
    except DmcpError as err:
        raise DmcpError(f"{what} is not valid: {err}") from err


def write_artifact(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Writes an artifact's JSON, headed by its kind, schema version and this tool's version."""
    head = {"kind": kind, "schema_version": SCHEMA_VERSION, "tool_version": __version__}
    # The head stands first and wins: content read from an older release's file brings its own.
    whole = {**head, **content, **head}
    write_text(path, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def read_artifact(path: Path, kind: str) -> dict[str, Any]:
    """Returns the JSON of the artifact in `path`, its head included.

    Raises:
        DmcpError: The file is absent, no JSON, of another kind or another schema version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DmcpError(f"There is no {kind} file {path}.") from err
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    except ValueError as err:
        raise DmcpError(f"{path} is not readable as the JSON of {_a(kind)}: {err}.") from err
    if not isinstance(content, dict):
        content = {}
    if (found := content.get("kind")) != kind:
        raise DmcpError(f"{path} is not {_a(kind)} file: its kind is {found!r}.")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DmcpError(
            f"{path} has schema version {version!r}, and this release reads {SCHEMA_VERSION}:"
            f" use the release that wrote it ({content.get('tool_version', 'unknown')})."
        )
    return content


def digest_file(path: Path) -> str:
    """Returns the SHA-256 of a file, as "sha256:<hex>"."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def digest_files(paths: Iterable[Path]) -> str:
    """Returns one digest of files that belong together; a single file's is its own."""
    parts = [digest_file(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"


def _make_part(path: Path) -> Path:
    """Returns a new empty file beside a path."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except FileExistsError as err:
        raise DmcpError(f"Cannot write {path}: {path.parent} is not a folder.") from err
    except OSError as err:
        raise DmcpError(f"Cannot write {path}: {reason_of(err)}.") from err
    return Path(name)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
