"""Shared by all tests: what a marker asks of the machine, and the real data there is."""

from __future__ import annotations

from pathlib import Path

import pytest

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_cuda():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The folder of Debian's Fashion-MNIST files."""
    if not FASHION_MNIST.is_dir():
        pytest.skip(f"no {FASHION_MNIST}: apt-get install dataset-fashion-mnist")
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


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
