"""What every runtime of ONNX files keeps: one face, the same logits, one sentence for bad input."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_same
from tiny_onnx import write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import ONNX_RUNTIMES
from dmcp_deploy.runtimes.session import Session, open_session

Open = Callable[..., Session]


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.fixture(params=ONNX_RUNTIMES)
def open_(request: pytest.FixtureRequest) -> Open:
    """Opens a file in one of the runtimes."""
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return lambda path, threads=1: open_session(path, name, threads)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 5])
def test_logits_are_those_computed_by_hand(
    tmp_path: Path, open_: Open, threads: int, batch: int
) -> None:
    net = write_tiny_net(tmp_path / "net.onnx")
    x = images(batch, 3, 16, 16)
    with open_(net.path, threads) as session:
        logits = session.run(x)
    assert logits.dtype == np.float32
    assert_same(logits, net.logits(x), roundings=net.roundings)


def test_the_input_shape_tells_what_is_open(tmp_path: Path, open_: Open) -> None:
    write_tiny_net(tmp_path / "open.onnx")
    write_tiny_net(tmp_path / "fixed.onnx", batch=4, size=8)
    write_tiny_net(tmp_path / "any_size.onnx", size="side")
    shapes = {}
    for name in ("open", "fixed", "any_size"):
        with open_(tmp_path / f"{name}.onnx") as session:
            shapes[name] = session.input_shape
    assert shapes == {
        "open": (None, 3, 16, 16),
        "fixed": (4, 3, 8, 8),
        "any_size": (None, 3, None, None),
    }


def test_a_session_ends_with_its_block(tmp_path: Path, open_: Open) -> None:
    net = write_tiny_net(tmp_path / "net.onnx")
    with open_(net.path) as session:
        session.run(images(1, 3, 16, 16))
    with pytest.raises(AssertionError, match="closed"):
        session.run(images(1, 3, 16, 16))


@pytest.mark.parametrize(
    "x",
    [images(1, 4, 16, 16), images(1, 3, 8, 8), images(3, 16, 16), np.zeros((1, 3, 16, 16))],
    ids=["channels", "size", "rank", "float64"],
)
def test_images_that_do_not_fit_are_one_sentence(
    tmp_path: Path, open_: Open, capfd: pytest.CaptureFixture[str], x: np.ndarray
) -> None:
    net = write_tiny_net(tmp_path / "net.onnx")
    with open_(net.path) as session:
        with pytest.raises(DmcpError, match=r"does not run on") as caught:
            session.run(x)
        session.run(images(1, 3, 16, 16))
    assert "\n" not in str(caught.value)
    assert "src/" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a" * 50, None])
def test_a_file_that_is_no_onnx_is_one_sentence(
    tmp_path: Path, open_: Open, capfd: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    expected = "cannot be loaded as ONNX" if content is not None else "There is no ONNX file"
    with pytest.raises(DmcpError, match=expected) as caught:
        open_(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_one_sentence(
    tmp_path: Path, open_: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    net = write_tiny_net(tmp_path / "net.onnx", width=64)
    net.path.write_bytes(net.path.read_bytes()[:-200])
    with pytest.raises(DmcpError, match="cannot be loaded as ONNX"):
        open_(net.path)
    assert capfd.readouterr() == ("", "")
