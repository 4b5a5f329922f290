from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_same, difference, rounding_bound
from onnx import TensorProto, helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

pytest.importorskip("openvino", reason="no OpenVINO: pip install dmcp-deploy[openvino]")

from dmcp_deploy.runtimes.openvino import OpenVinoSession


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_it_computes_what_onnx_runtime_computes_at_a_fixed_batch(tmp_path):
    net = write_tiny_net(tmp_path / "fixed.onnx", batch=4, width=64)
    x = images(4, 3, 16, 16)
    with OpenVinoSession(net.path, 1) as session, OnnxSession(net.path, 1) as reference:
        assert_same(session.run(x), reference.run(x), roundings=net.roundings)
        with pytest.raises(DmcpError, match=r"does not run on float32 images \[2, 3, 16, 16\]"):
            session.run(x[:2])


def test_logits_outlive_the_next_run_and_images_may_be_strided(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    strided = images(2, 16, 16, 3).transpose(0, 3, 1, 2)
    with OpenVinoSession(net.path, 1) as session:
        first = session.run(strided)
        session.run(images(2, 3, 16, 16) + 1)
    assert_same(first, net.logits(strided), roundings=net.roundings)


def test_a_session_that_has_ended_tells_no_precision(tmp_path):
    with OpenVinoSession(write_tiny_net(tmp_path / "net.onnx").path) as session:
        assert session.executed_precision == "fp32"
    with pytest.raises(AssertionError, match="closed"):
        _ = session.executed_precision


def test_it_runs_in_fp32_unless_asked_otherwise(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with OpenVinoSession(net.path, 1) as session:
        assert (session.precision, session.executed_precision) == ("fp32", "fp32")
        assert session.layer_precisions == {"fp32": 2}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_executed_precision_is_that_of_the_layers_and_of_the_logits(tmp_path, precision):
    """Not that of the request: fp16 is computed in bf16 or fp32 on most x86 processors."""
    net = write_tiny_net(tmp_path / "net.onnx", width=64)
    x = images(8, 3, 16, 16)
    with OpenVinoSession(net.path, 1, precision) as session:
        assert session.precision == precision
        assert set(session.layer_precisions) == {session.executed_precision}
        assert sum(session.layer_precisions.values()) == 2
        logits, executed = session.run(x), session.executed_precision
    error, exact = difference(logits, net.logits(x)), rounding_bound(net.roundings)
    if executed == "fp32":
        assert error < exact
    else:  # the two layers round, their sums are FP32
        assert exact < error < rounding_bound(2, executed)


WITHOUT_BF16 = """
import sys
from pathlib import Path

import numpy as np
import openvino

from dmcp_deploy.runtimes.openvino import OpenVinoSession

with OpenVinoSession(Path(sys.argv[1]), 1, "bf16") as session:
    logits = session.run(np.zeros((3, 3, 16, 16), np.float32))
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    print("BF16" in capable, len(logits), session.precision, session.executed_precision)
"""


def test_a_processor_without_bf16_is_found_out(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    limited.pop("OV_CPU_MAX_ISA", None)
    command = [sys.executable, "-c", WITHOUT_BF16, str(net.path)]
    done = subprocess.run(command, env=limited, capture_output=True, text=True, check=True)
    capable, *told = done.stdout.split()
    if capable == "True":
        pytest.skip("this OpenVINO cannot be told to leave BF16 out")
    assert told == ["3", "bf16", "fp32"]


ENDED_IN_ORDER_OF_LOADING = """
import gc
import os
import signal
import sys
from pathlib import Path

from dmcp_deploy.runtimes.openvino import OpenVinoSession

heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append("signal"))
first, second = (OpenVinoSession(Path(sys.argv[1]), 1) for _ in range(2))
for session in (first, second):
    with session:
        pass
del first, second, session
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print(*heard)
"""


def test_a_process_lives_through_a_signal_when_sessions_end_in_any_order(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    command = [sys.executable, "-c", ENDED_IN_ORDER_OF_LOADING, str(net.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "signal\n"), done.stderr


LOADED_ON_ONE_CORE = """
import os
import sys
from pathlib import Path

import numpy as np

from dmcp_deploy.runtimes.openvino import OpenVinoSession

path, images = Path(sys.argv[1]), np.zeros((1, *map(int, sys.argv[2:])), np.float32)
own = os.sched_getaffinity(0)
with OpenVinoSession(path) as session:
    session.run(images)
os.sched_setaffinity(0, {min(own)})
with OpenVinoSession(path, 1) as session:
    session.run(images)
os.sched_setaffinity(0, own)
with OpenVinoSession(path, 1) as first, OpenVinoSession(path, 1) as second:
    first.run(images)
    second.run(images)
print(os.sched_getaffinity(0) == own)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_thread_has_its_cores_again_when_all_sessions_have_ended(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with OpenVinoSession(net.path) as session:
        sizes = [str(size) for size in session.input_shape[1:]]
    command = [sys.executable, "-c", LOADED_ON_ONE_CORE, str(net.path), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_threads_are_those_asked_for(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with OpenVinoSession(net.path, 1) as session:
        assert session._compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert str(session._compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")


def test_quantised_layers_count_as_int8(tmp_path):
    write_quantised_net(tmp_path / "int8.onnx")
    with OpenVinoSession(tmp_path / "int8.onnx", 1) as session:
        assert session.layer_precisions == {"int8": 1}
        assert session.executed_precision == "fp32"


def test_an_operator_it_does_not_know_is_named(tmp_path, capfd):
    node = helper.make_node("MyOp", ["x"], ["y"], domain="my.domain")
    shape = [1, 3, 4, 4]
    graph = helper.make_graph(
        [node],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
    path = tmp_path / "odd.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    with pytest.raises(DmcpError, match=r"cannot be loaded as ONNX: .*my\.domain\.MyOp") as caught:
        OpenVinoSession(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"a": [1, 3], "b": [1, 3]}, {"c": [1, 3]}),
        ({"a": [1, 3, 4, 4], "b": [1, 3, 4, 4]}, {"c": [1, 3, 4, 4]}),
    ],
    ids=["rank", "two inputs"],
)
def test_a_network_that_takes_no_images_is_refused(tmp_path, inputs, outputs):
    nodes = [helper.make_node("Add", ["a", "b"], ["c"])]
    save_graph(tmp_path / "sum.onnx", nodes, inputs=inputs, outputs=outputs, weights={})
    with pytest.raises(DmcpError, match=r"takes a f32 \[1,3.*, b .* where one float32 input"):
        OpenVinoSession(tmp_path / "sum.onnx")


def test_unknown_precisions_and_negative_threads_are_refused(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with pytest.raises(DmcpError, match=r"'fp61' is unknown: choose one of fp32, fp16, bf16"):
        OpenVinoSession(net.path, precision="fp61")
    with pytest.raises(DmcpError, match=r"threads is -1"):
        OpenVinoSession(net.path, threads=-1)


def test_a_missing_library_is_named_with_the_extra(tmp_path, monkeypatch):
    net = write_tiny_net(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DmcpError, match=r"pip install dmcp-deploy\[openvino\]"):
        OpenVinoSession(net.path)


def write_quantised_net(path: Path) -> None:
    """Writes one convolution whose input and weights are quantised symmetrically."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    save_graph(
        path,
        nodes,
        inputs={"input": ["batch", 3, 16, 16]},
        outputs={"logits": ["batch", 8]},
        weights={
            "scale": np.array(0.05, np.float32),
            "zero": np.array(0, np.int8),
            "weights": rng.integers(-127, 128, (8, 3, 3, 3), dtype=np.int8),
        },
    )
