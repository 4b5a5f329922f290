from __future__ import annotations

import json
import os
from importlib import metadata

from dmcp_deploy import __version__
from dmcp_deploy.machine.environment import read_environment


def test_the_environment_is_this_machines():
    found = read_environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["tool_version"] == __version__
    assert 1 <= found["cores"] <= os.cpu_count()
    assert found["libraries"]["onnxruntime"] == metadata.version("onnxruntime")
    assert found["libraries"]["numpy"] == metadata.version("numpy")
    assert len(found["load_average"]) == 3
    assert found["taken_at"].endswith("+00:00")
    assert {"cpu", "governor", "platform", "machine", "python"} <= found.keys()


def test_fewer_cores_are_noticed():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert read_environment()["cores"] == 1
    finally:
        os.sched_setaffinity(0, allowed)
