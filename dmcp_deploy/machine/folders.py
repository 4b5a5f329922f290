"""Where this user's files go, also of a user who has neither a name nor a home."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dmcp_deploy.errors import DmcpError


def user_cache() -> Path:
    """Returns the folder for what can be fetched again; it need not be there yet.

    It is XDG_CACHE_HOME, or .cache in the home; for a user of a container who has no home, or one
    that cannot be written to, a folder in the one for temporary files.

    Raises:
        DmcpError: That folder belongs to somebody else.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    home = Path(os.path.expanduser("~"))
    if home.is_absolute() and _can_write(home / ".cache"):
        return home / ".cache"
    return _checked_owner(Path(tempfile.gettempdir()) / f"cache-of-user-{_user()}")


def table_cache() -> Path:
    """Returns the folder that latency tables are kept in; it need not be there yet."""
    return user_cache() / "dmcp-deploy" / "tables"


def _can_write(folder: Path) -> bool:
    there = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    return os.access(there, os.W_OK | os.X_OK)


def _checked_owner(folder: Path) -> Path:
    # Anybody may have made a folder of that name there.
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != _user()):
        raise DmcpError(
            f"There is no home to keep downloads in, and {folder} belongs to another user: set"
            " XDG_CACHE_HOME to a folder of yours."
        )
    return folder


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
