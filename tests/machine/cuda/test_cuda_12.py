"""The real cuda-python of CUDA 12, JetPack 6's, over a CUDA driver that works on host memory."""

from __future__ import annotations

import json

import pytest
from device_trials import GRAPH_TRIALS, TRIALS
from host_cuda import build_driver, run_python
from kept import kept
from pycuda_build import pip

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cuda_12")]

#: The last of CUDA 12, and one that had no cuda.bindings yet.
RELEASES = ("cuda-bindings==12.9.4", "cuda-python==12.4.0")


@pytest.fixture(scope="module", params=RELEASES)
def outcomes(request: pytest.FixtureRequest) -> dict[str, str | None]:
    release = request.param
    folder = kept(
        "cuda-12", release, lambda target: pip("install", "--no-deps", "--target", target, release)
    )
    code = (
        "import device_trials\n"
        "from dmcp_deploy.machine.cuda.binding_cuda_python import CudaPythonBinding\n"
        "assert CudaPythonBinding().cuda_version[0] == 12\n"
        "device_trials.run_all('cuda-python')"
    )
    return json.loads(run_python(code, build_driver(), path=[folder]))


@pytest.mark.parametrize("trial", [*TRIALS, *GRAPH_TRIALS])
def test_over_cuda_python_of_cuda_12(outcomes, trial):
    assert outcomes[trial] is None, outcomes[trial]
