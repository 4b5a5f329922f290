"""The CPU quota of a container or job, as both versions of Linux's control groups tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmcp_deploy.machine.quota import read_quota, read_throttled
from dmcp_deploy.machine.state import allowed_cores, read_state, usable_cores

STAT = "nr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec 900"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def version_2(group: str, limits: dict[str, str], counts: tuple[int, int] = (64, 59)):
    """Returns the files of a group below others, some of which have limits."""
    files = {"proc/self/cgroup": f"0::{group}", "sys/fs/cgroup/cgroup.controllers": "cpu io"}
    for name, limit in limits.items():
        files[f"sys/fs/cgroup{name}/cpu.max"] = limit
        stat = STAT.format(periods=counts[0], throttled=counts[1])
        files[f"sys/fs/cgroup{name}/cpu.stat"] = f"usage_usec 5\n{stat}"
    return files


def version_1(group: str, folder: str, quota: int):
    return {
        "proc/self/cgroup": f"5:memory:/x\n4:cpu,cpuacct:{group}\n0::/elsewhere",
        f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us": str(quota),
        f"sys/fs/cgroup/{folder}/cpu.cfs_period_us": "100000",
        f"sys/fs/cgroup/{folder}/cpu.stat": STAT.format(periods=10, throttled=3),
    }


@pytest.mark.parametrize(
    ("files", "quota", "throttled"),
    [
        (version_2("/", {"": "50000 100000"}), 0.5, (64, 59)),  # within a container
        (version_2("/a/b", {"/a/b": "150000 100000"}), 1.5, (64, 59)),
        (version_2("/a/b", {"/a/b": "max 100000", "/a": "200000 100000"}), 2.0, (64, 59)),
        (version_2("/a/b", {"/a/b": "400000 100000", "/a": "300000 100000"}), 3.0, (64, 59)),
        (version_2("/a", {"/a": "max 100000"}), None, None),
        (version_1("/job", "cpu,cpuacct/job", 50000), 0.5, (10, 3)),
        (version_1("/docker/1234", "cpu,cpuacct", 50000), 0.5, (10, 3)),  # the host's path
        (version_1("/job", "cpu/job", 250000), 2.5, (10, 3)),
        (version_1("/job", "cpu/job", -1), None, None),
        ({}, None, None),
        ({"proc/self/cgroup": "nonsense"}, None, None),
    ],
)
def test_the_smallest_quota_of_all_groups_counts(tmp_path, files, quota, throttled):
    root = write(tmp_path, files)
    assert read_quota(root) == quota
    assert read_throttled(root) == throttled
    state = read_state([0], root=root)
    assert state.get("cpu_quota") == quota
    told = (state.get("cpu_periods"), state.get("cpu_throttled"))
    assert told == (throttled or (None, None))


def test_threads_are_as_many_as_the_quota_keeps_busy(tmp_path):
    cores = len(allowed_cores())
    for number, (quota, most) in enumerate(((20000, 1), (100000, 1), (150000, 2))):
        root = write(tmp_path / str(number), version_2("/", {"": f"{quota} 100000"}))
        assert usable_cores(root) == min(most, cores)
    assert usable_cores(tmp_path / "none") == cores
