"""The experiments in benchmarks/, which are scripts and no package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def worth() -> Iterator[Callable[[str], ModuleType]]:
    """Returns what imports one of the modules of benchmarks/worth."""
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not beside the tests")
    sys.path.insert(0, str(BENCHMARKS))
    yield lambda name: importlib.import_module(f"worth.{name}")
    sys.path.remove(str(BENCHMARKS))
