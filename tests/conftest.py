"""Shared by all tests: what a mark asks of the machine, how workers share them, and real data."""

from __future__ import annotations

from pathlib import Path

import pytest
from needs import FASHION_MNIST, need, summary
from work_units import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure_node",
    "pytest_xdist_make_scheduler",
]


def pytest_itemcollected(item: pytest.Item) -> None:
    nightly = item.get_closest_marker("nightly")
    if nightly is not None and not nightly.args:
        raise pytest.UsageError(f"{item.nodeid} is nightly and does not say why")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            need(name)
    if item.get_closest_marker("gpu"):
        need("cuda")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
    ]
    if reasons:
        terminalreporter.section("skipped")
        for line in summary(reasons):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The folder of Debian's Fashion-MNIST files."""
    need("fashion-mnist")
    return FASHION_MNIST


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 3 classes with 48 training and 24 validation pictures."""
    from picture_folders import make_folder

    return make_folder(tmp_path_factory.mktemp("data") / "pictures", train=16, val=8)


@pytest.fixture(scope="session")
def finished_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that `prune` has filled; not to be changed.

    It takes some seconds: tests that use it belong to the xdist_group "run".
    """
    from tiny_runs import asked, succeed

    out = tmp_path_factory.mktemp("runs") / "finished"
    succeed(*asked("prune", tiny_folder, out, seconds=0.2))
    return out
