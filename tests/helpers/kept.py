"""What takes long to compile or download, kept between sessions in this user's cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def kept(name: str, content: str | bytes, make: Callable[[Path], object]) -> Path:
    """Returns a folder that `make` has filled, in this session or in an earlier one.

    It lies below $XDG_CACHE_HOME, or ~/.cache, and is safe to delete. Of several processes one
    makes it and the others wait; a folder that could not be filled is not kept.

    Args:
        name: What it holds.
        content: What it is made of, such as versions or sources: it is made anew when they change.
        make: Fills the folder that it is given, which is another one until it is full.
    """
    content = content.encode() if isinstance(content, str) else content
    made_for = f"{sys.implementation.cache_tag} {platform.machine()} ".encode()
    folder = _cache() / f"{name}-{hashlib.sha256(made_for + content).hexdigest()[:16]}"
    with _locked(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
            try:
                make(part)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return folder


def _cache() -> Path:
    """Returns the folder of all that is kept, or a temporary one where there is no home."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "dmcp-deploy-tests"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"dmcp-deploy-tests-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
