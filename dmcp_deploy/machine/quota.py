"""How much of the processors a container or a job may use: the CPU quota of its cgroups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dmcp_deploy.machine.sysfs import read_number, read_text

_ROOT = Path("/")
_CONTROLLERS = "sys/fs/cgroup"


def read_quota(root: Path = _ROOT) -> float | None:
    """Returns the time of how many cores this process may take; None where there is no limit.

    Args:
        root: The folder in which proc/ and sys/ lie.
    """
    limits = [limit for folder in _groups(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def read_throttled(root: Path = _ROOT) -> tuple[int, int] | None:
    """Returns in how many periods there was work, and in how many of them the quota stopped it.

    They count from the start of the group whose quota stopped it most often; None where none has
    a quota.
    """
    counts = []
    for folder in _groups(root):
        stat = dict(line.split() for line in read_text(folder / "cpu.stat").splitlines())
        periods, throttled = (stat.get(name, "") for name in ("nr_periods", "nr_throttled"))
        if _limit(folder) is not None and periods.isdecimal() and throttled.isdecimal():
            counts.append((int(periods), int(throttled)))
    return max(counts, key=lambda count: count[1], default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yields the folders of this process's groups that may have a quota, the innermost first."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and "cpu" not in names.split(","):
            continue
        # Version 2 names no controllers; version 1 has a folder for those named together.
        for top in (root / _CONTROLLERS / names, root / _CONTROLLERS / "cpu"):
            if top.is_dir():
                yield from _with_parents(top, path.strip("/"))
                break


def _with_parents(top: Path, path: str) -> Iterator[Path]:
    """Yields a group's folder and those above it; within a container only the top may be there."""
    folder = top / path
    for each in (folder, *folder.parents):
        if each.is_dir():
            yield each
        if each == top:
            return


def _limit(folder: Path) -> float | None:
    words = read_text(folder / "cpu.max").split()
    if len(words) == 2 and all(word.isdecimal() for word in words):
        return int(words[0]) / int(words[1])
    quota, period = (read_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota and period else None
