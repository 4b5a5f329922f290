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


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
