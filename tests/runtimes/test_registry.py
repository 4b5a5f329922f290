"""The registry is all that names a runtime: one more is a file and a line."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_onnx import write_tiny_net
from tiny_runs import ENVIRONMENT

from dmcp_deploy.registry import ENGINE_MODULE, NETWORK_RUNTIMES, ONNX_RUNTIMES

#: A runtime that runs nothing: every network's logits are zero.
ZEROS = """
import numpy as np


class ZerosSession:
    runtime = "zeros 1.0"
    input_shape = (None, 3, 16, 16)

    def __init__(self, path, threads):
        self.path, self.threads = path, threads

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, images):
        return np.zeros((len(images), self.threads), np.float32)


open_session = ZerosSession
"""
#: It borrows the profiler of another one.
PROFILE = """
from dmcp_deploy.runtimes.onnxruntime import profile
"""
#: Writes one line into the registry, as this process reads it, and runs the command line.
WITH_ZEROS = """
import sys
from pathlib import Path
from dmcp_deploy import registry

first = '    "onnxruntime": "dmcp_deploy.runtimes.onnxruntime",\\n'
text = Path(registry.__file__).read_text()
assert text.count(first) == 1
text = text.replace(first, first + '    "zeros": "zeros_runtime",\\n')
exec(compile(text, registry.__file__, "exec"), vars(registry))

from dmcp_deploy.cli.main import main
main(sys.argv[1:])
"""


def bench(folder: Path, module: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs `bench` on a network where the registry names the module as the runtime "zeros"."""
    net = write_tiny_net(folder / "net.onnx").path
    (folder / "zeros_runtime.py").write_text(module)
    command = [sys.executable, "-c", WITH_ZEROS, "bench", net, *words]
    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(folder)])
    return subprocess.run(
        [str(word) for word in command],
        env={**ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_runtime_is_one_file_and_one_line(tmp_path: Path) -> None:
    asked = ("--runtime", "zeros", "--threads", 1, "--seconds", 0.2)
    done = bench(tmp_path, ZEROS + PROFILE, *asked, "--wide", "--layers")
    assert done.returncode == 0, done.stderr
    title, row = (line.split("  ") for line in done.stdout.splitlines()[:2])
    assert (title[0], row[0]) == ("network", "net")
    assert "net: layers at batch 1 in zeros 1.0;" in done.stdout
    assert "linear" in done.stdout


def test_one_without_a_profiler_measures_whole_networks_alone(tmp_path: Path) -> None:
    asked = ("--runtime", "zeros", "--threads", 1, "--seconds", 0.1)
    assert bench(tmp_path, ZEROS, *asked).returncode == 0
    refused = bench(tmp_path, ZEROS, *asked, "--layers")
    assert refused.returncode == 1
    assert "profiler, which zeros has none of here" in refused.stderr


@pytest.mark.parametrize("name", [*ONNX_RUNTIMES, "engines"])
def test_every_module_that_runs_files_offers_what_is_called(name: str) -> None:
    module = importlib.import_module(ONNX_RUNTIMES.get(name, ENGINE_MODULE))
    assert callable(module.open_session)
    assert callable(module.profile)


@pytest.mark.parametrize("name", NETWORK_RUNTIMES)
def test_every_module_that_runs_networks_offers_what_is_called(name: str) -> None:
    pytest.importorskip(name)
    assert callable(importlib.import_module(NETWORK_RUNTIMES[name]).open_network)
