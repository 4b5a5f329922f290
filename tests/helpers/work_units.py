"""Spreads tests over workers in units: what shares something expensive stays together.

xdist's `--dist loadgroup` writes the group into a test's id, and pytest 9.2 does not let it
(pytest-xdist issue 1386): both workers built whatever a group shares. Here each worker writes the
units of its tests into a file beside the ids, and the scheduler reads that. Units that take long
come first, so that the workers end together.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # a test process of one's own needs no xdist
    LoadScopeScheduling = object

_SECONDS = {"slow": 10.0, "fast": 0.05}
_FOLDER = "units_folder"
_folder = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


def unit(item: pytest.Item) -> str:
    """Returns what is given to one worker as a whole: a group, or a file.

    A slow test with parameters stands apart, together with those of its file that have the same.
    """
    group = item.get_closest_marker("xdist_group")
    if group is not None:
        return str(group.args[0])
    file = item.nodeid.partition("::")[0]
    parameters = getattr(item, "callspec", None)
    if parameters is not None and item.get_closest_marker("slow"):
        return f"{file}[{parameters.id}]"
    return file


def seconds(item: pytest.Item) -> float:
    """Returns a guess at what a test takes: what its mark says, as in `slow(seconds=60)`."""
    slow = item.get_closest_marker("slow")
    return _SECONDS["fast"] if slow is None else slow.kwargs.get("seconds", _SECONDS["slow"])


class UnitScheduling(LoadScopeScheduling):
    """Gives the units of a folder's files to workers, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._folder = Path(config.stash[_folder].name)
        self._units: dict[str, str] = {}

    def schedule(self) -> None:
        """Begins, or goes on."""
        if not self._units:
            self._units, *others = (json.loads(p.read_text()) for p in self._folder.glob("*.json"))
            assert all(other == self._units for other in others), "workers collected other tests"
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._units[nodeid]


# ---- hooks, for a conftest.py to import ----


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> UnitScheduling | None:
    return UnitScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    if _folder not in node.config.stash:
        node.config.stash[_folder] = tempfile.TemporaryDirectory(prefix="dmcp-deploy-units-")
    node.workerinput[_FOLDER] = node.config.stash[_folder].name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        return
    total: dict[str, float] = defaultdict(float)
    for item in items:
        total[unit(item)] += seconds(item)
    items.sort(key=lambda item: (-total[unit(item)], unit(item)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    told = getattr(session.config, "workerinput", None)
    if told is not None:
        units = {item.nodeid: unit(item) for item in session.items}
        Path(told[_FOLDER], f"{told['workerid']}.json").write_text(json.dumps(units))
