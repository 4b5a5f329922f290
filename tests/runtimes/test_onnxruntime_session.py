from __future__ import annotations

import sys

import pytest
from onnx import helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.onnxruntime import OnnxSession


def test_a_network_that_takes_no_images_is_refused(tmp_path):
    save_graph(
        tmp_path / "sum.onnx",
        [helper.make_node("Add", ["a", "b"], ["c"])],
        inputs={"a": [1, 3], "b": [1, 3]},
        outputs={"c": [1, 3]},
        weights={},
    )
    with pytest.raises(DmcpError, match=r"takes a .*, b .* where one float32 input"):
        OnnxSession(tmp_path / "sum.onnx")


def test_it_runs_on_the_cpu_unless_asked_otherwise(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with OnnxSession(net.path) as session:
        assert session.providers == ("CPUExecutionProvider",)


def test_unknown_providers_and_negative_threads_are_refused(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with pytest.raises(DmcpError, match=r"no NoSuchProvider here; it has .*CPUExecutionProvider"):
        OnnxSession(net.path, providers=("NoSuchProvider",))
    with pytest.raises(DmcpError, match=r"threads is -1"):
        OnnxSession(net.path, threads=-1)


def test_a_missing_library_is_named_with_the_extra(tmp_path, monkeypatch):
    net = write_tiny_net(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DmcpError, match=r"pip install dmcp-deploy\[export\]"):
        OnnxSession(net.path)
