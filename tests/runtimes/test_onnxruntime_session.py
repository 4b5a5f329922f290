from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.runtimes.onnxruntime import OnnxSession


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 5])
def test_logits_are_those_computed_by_hand(tmp_path, threads, batch):
    net = write_tiny_net(tmp_path / "net.onnx")
    x = images(batch, 3, 16, 16)
    with OnnxSession(net.path, threads) as session:
        logits = session.run(x)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, net.logits(x), rtol=1e-4, atol=1e-5)


def test_the_input_shape_tells_what_is_open(tmp_path):
    write_tiny_net(tmp_path / "open.onnx")
    write_tiny_net(tmp_path / "fixed.onnx", batch=4, size=8)
    write_tiny_net(tmp_path / "any_size.onnx", size="side")
    with OnnxSession(tmp_path / "open.onnx") as session:
        assert session.input_shape == (None, 3, 16, 16)
        assert session.providers == ("CPUExecutionProvider",)
    with OnnxSession(tmp_path / "fixed.onnx") as session:
        assert session.input_shape == (4, 3, 8, 8)
    with OnnxSession(tmp_path / "any_size.onnx") as session:
        assert session.input_shape == (None, 3, None, None)


def test_a_session_ends_with_its_block(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx")
    with OnnxSession(net.path) as session:
        session.run(images(1, 3, 16, 16))
    with pytest.raises(AssertionError, match="closed"):
        session.run(images(1, 3, 16, 16))


@pytest.mark.parametrize(
    "x",
    [images(1, 4, 16, 16), images(1, 3, 8, 8), images(3, 16, 16), np.zeros((1, 3, 16, 16))],
    ids=["channels", "size", "rank", "float64"],
)
def test_images_that_do_not_fit_are_one_sentence(tmp_path, capfd, x):
    net = write_tiny_net(tmp_path / "net.onnx")
    with OnnxSession(net.path, 1) as session, pytest.raises(DmcpError, match=r"does not run on"):
        session.run(x)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a" * 50, None])
def test_a_file_that_is_no_onnx_is_one_sentence(tmp_path, capfd, content):
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    expected = "cannot be loaded as ONNX" if content is not None else "There is no ONNX file"
    with pytest.raises(DmcpError, match=expected) as caught:
        OnnxSession(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_one_sentence(tmp_path):
    net = write_tiny_net(tmp_path / "net.onnx", width=64)
    net.path.write_bytes(net.path.read_bytes()[:-200])
    with pytest.raises(DmcpError, match="cannot be loaded as ONNX"):
        OnnxSession(net.path)


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
