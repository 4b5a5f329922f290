"""The real cuda-python over a CUDA driver that works on host memory."""

from __future__ import annotations

import json

import pytest
from device_trials import GRAPH_TRIALS, TRIALS
from host_cuda import build_driver, run_python

pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    code = "import device_trials; device_trials.run_all('cuda-python')"
    return json.loads(run_python(code, build_driver()))


@pytest.mark.parametrize("trial", [*TRIALS, *GRAPH_TRIALS])
def test_over_cuda_python(outcomes, trial):
    assert outcomes[trial] is None, outcomes[trial]
