"""What tests need that not every machine has: looked for here, and named once when it is missing.

A test says `@pytest.mark.needs("chromium")`, and a helper that opens such a thing `need("gcc")`.
Where it is missing the test skips, and the session ends with the command that would have run it.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(frozen=True)
class Need:
    """Something that a machine may lack.

    Attributes:
        there: Tells whether it is there.
        lacking: The reason of a skip.
        apt: Debian's packages that bring it.
        pip: The package of Python that brings it.
    """

    there: Callable[[], object]
    lacking: str
    apt: str = ""
    pip: str = ""


def need(name: str) -> None:
    """Skips the test that is running where one of `NEEDS` is missing."""
    if not _is_there(name):
        pytest.skip(NEEDS[name].lacking)


def summary(reasons: Iterable[str]) -> list[str]:
    """Returns what to say of skips: each reason with its number, and one command for all it can."""
    counts = Counter(reasons)
    if not counts:
        return []
    lines = [f"{number:5}  {reason}" for reason, number in counts.most_common()]
    missing = [need for need in NEEDS.values() if need.lacking in counts and (need.apt or need.pip)]
    if missing:
        total = sum(counts[need.lacking] for need in missing)
        lines.append(f"{total:5}  would have run after: {_command(missing)}")
    return lines


def _command(missing: Iterable[Need]) -> str:
    """Returns the command that brings everything."""
    words = {"sudo apt-get install": [], ".venv/bin/pip install": []}
    for need in missing:
        words["sudo apt-get install"] += need.apt.split()
        words[".venv/bin/pip install"] += need.pip.split()
    parts = (f"{start} {' '.join(dict.fromkeys(names))}" for start, names in words.items() if names)
    return " && ".join(parts)


@functools.cache
def _is_there(name: str) -> bool:
    return bool(NEEDS[name].there())


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _package(name: str, distribution: str) -> Need:
    return Need(
        lambda: importlib.util.find_spec(name), f"no package {distribution}", pip=distribution
    )


def _program(name: str, purpose: str) -> Need:
    return Need(lambda: shutil.which(name), f"no {name}, {purpose}", apt=name)


NEEDS = {
    "fashion-mnist": Need(
        FASHION_MNIST.is_dir, f"no Fashion-MNIST in {FASHION_MNIST}", apt="dataset-fashion-mnist"
    ),
    "elpv": _package("elpv_dataset", "elpv-dataset"),
    "chromium": Need(lambda: CHROMIUM, "no chromium to look at pages with", apt="chromium"),
    "cuda": Need(_has_cuda, "no CUDA device"),
    "gcc": _program("gcc", "to compile the host-memory CUDA driver"),
    "g++": _program("g++", "to compile pycuda"),
    "binutils": Need(
        lambda: shutil.which("nm") and shutil.which("readelf"),
        "no nm and readelf, to stand in for TensorRT's libraries",
        apt="binutils",
    ),
    "Python.h": Need(
        Path(sysconfig.get_paths()["include"], "Python.h").is_file,
        "no Python.h, to compile pycuda against",
        apt="python3-dev",
    ),
}
