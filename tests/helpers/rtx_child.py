"""Builds an ONNX file by TensorRT-RTX in a process of its own.

TensorRT has one logger per process, the first that it was given: this one reads the layers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


def rtx_layer_types(path: Path, arch: str = "SM89") -> set[str]:
    """Returns the data types in an engine's layers, such as {"Half", "Float"}.

    The image input is [N, 3, 16, 16].
    """
    pytest.importorskip("tensorrt_rtx")
    done = subprocess.run(
        [sys.executable, __file__, path, arch], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def main(path: str, arch: str) -> None:
    import tensorrt_rtx as trt

    messages: list[str] = []

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, text: str) -> None:
            messages.append(text)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(path), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(trt.ComputeCapability, arch), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *[(n, 3, 16, 16) for n in (1, 2, 4)])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None, messages[-5:]
    layers = "\n".join(text for text in messages if text.startswith("Layers:"))
    print(json.dumps(sorted(set(re.findall(r"Datatype: (\w+)", layers)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
