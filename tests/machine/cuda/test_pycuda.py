"""The real pycuda, compiled here, over a CUDA driver that works on host memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from device_trials import NO_GRAPH_TRIALS, TRIALS
from host_cuda import build_driver, run_python
from pycuda_build import RELEASE, build_pycuda

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pycuda"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def pycuda() -> Path:
    return build_pycuda()


@pytest.fixture(scope="module")
def outcomes(pycuda: Path) -> dict[str, str | None]:
    code = "import device_trials; device_trials.run_all('pycuda')"
    return json.loads(run_python(code, build_driver(), path=[pycuda]))


@pytest.mark.parametrize("trial", [*TRIALS, *NO_GRAPH_TRIALS])
def test_over_pycuda(outcomes, trial):
    assert outcomes[trial] is None, outcomes[trial]


OPEN = """
import os, sys
os.environ.update({settings!r})
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import open_device

try:
    print(open_device({binding!r}).binding)
except DmcpError as err:
    print(err)
assert "pycuda.autoinit" not in sys.modules
"""


def test_auto_prefers_cuda_python_and_takes_pycuda_where_it_is_absent(pycuda):
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    code = OPEN.format(settings={}, binding="auto")
    assert run_python(code, build_driver(), path=[pycuda]) == "cuda-python\n"
    assert run_python(code, build_driver(), path=[pycuda], refuse=["cuda"]) == "pycuda\n"


def test_a_driver_of_an_older_cuda_is_one_sentence(pycuda):
    code = OPEN.format(settings={"DMCP_CUDA_VERSION": "12060"}, binding="pycuda")
    told = run_python(code, build_driver(), path=[pycuda])
    assert re.fullmatch(
        rf"The NVIDIA driver is too old: pycuda {RELEASE} is made for CUDA 13\.\d+, and the driver "
        r"supports CUDA 12\.6: update the driver, or build pycuda anew .*\.\n",
        told,
    ), told


def test_a_driver_that_lacks_calls_is_one_sentence_and_no_warning(pycuda):
    code = OPEN.format(settings={"DMCP_CUDA_VERSION": "12060"}, binding="pycuda")
    told = run_python(code, build_driver("-DOLDER"), path=[pycuda])
    assert re.fullmatch(
        r"The NVIDIA driver is too old: pycuda was built against a newer CUDA \(.*undefined "
        r"symbol: cu\w+\), and the driver supports CUDA 12\.6: update the driver, or .*\n",
        told,
    ), told


def test_pycuda_is_reported(pycuda):
    code = (
        "from dmcp_deploy.machine.cuda.report import probe_devices\n"
        "report = probe_devices()\n"
        "print(*next(vars(b).values() for b in report.bindings if b.name == 'pycuda'))"
    )
    assert run_python(code, build_driver(), path=[pycuda]) == f"pycuda {RELEASE} None\n"
