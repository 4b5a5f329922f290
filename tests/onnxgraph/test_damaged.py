"""Files with flipped bytes: libraries put the bytes into their errors, where they are no text."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_onnx import write_mixed_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.onnxgraph.file import check_graph, inspect_onnx
from dmcp_deploy.onnxgraph.layers import onnx_layers
from dmcp_deploy.onnxgraph.precision import read_precision
from dmcp_deploy.runtimes.onnxruntime import OnnxSession
from dmcp_deploy.runtimes.openvino import OpenVinoSession
from dmcp_deploy.runtimes.profile import profile_layers

IMAGES = np.zeros((1, 3, 16, 16), np.float32)


def run(open_: Callable[[Path], OnnxSession | OpenVinoSession], path: Path) -> None:
    with open_(path) as session:
        session.run(IMAGES)


READERS: dict[str, Callable[[Path], object]] = {
    "inspect": inspect_onnx,
    "check": lambda path: check_graph(path.read_bytes(), path),
    "convert": lambda path: to_half(path, path.with_suffix(".fp16.onnx"), "fp16"),
    "layers": onnx_layers,
    "precision": read_precision,
    "onnxruntime": lambda path: run(OnnxSession, path),
    "openvino": lambda path: run(OpenVinoSession, path),
    "profile": lambda path: profile_layers(path, IMAGES, runs=1),
}

OF_THE_GRAPH = ("inspect", "convert", "layers", "precision")

#: What is damaged -> bytes of the file, what they become, and the readers that cannot go on.
DAMAGES = {
    "operator": (b"GlobalAveragePool", b"GlobalAver\xffgePool", list(READERS)),
    "tensor": (b"active", b"act\xc3ve", ["inspect", "convert", "layers", "precision", "profile"]),
    "input": (
        b"input",
        b"in\xffut",
        ["inspect", "convert", "layers", "precision", "onnxruntime", "profile"],
    ),
    "axis": (b"batch", b"b\xfftch", ["inspect", "layers", "precision", "onnxruntime", "profile"]),
    "attribute": (b"nearest", b"nea\xffest", ["onnxruntime", "openvino", "profile"]),
}


@pytest.mark.parametrize(
    ("damage", "reader"),
    [(damage, reader) for damage, (_, _, readers) in DAMAGES.items() for reader in readers],
)
def test_bytes_that_are_no_text_end_in_one_sentence(
    damage: str, reader: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_mixed_net(tmp_path / "net.onnx")
    whole, flipped, _ = DAMAGES[damage]
    path.write_bytes(path.read_bytes().replace(whole, flipped))
    with pytest.raises(DmcpError) as caught:
        READERS[reader](path)
    assert path.name in str(caught.value)
    assert str(caught.value).isprintable()
    assert not capfd.readouterr().out


@pytest.mark.parametrize("reader", ["inspect", "check", "convert", "layers", "precision"])
def test_flipped_bytes_do_no_harm_or_end_in_one_sentence(reader: str, tmp_path: Path) -> None:
    path = write_mixed_net(tmp_path / "net.onnx")
    content = path.read_bytes()
    letters = [place for place, byte in enumerate(content) if chr(byte).islower()]
    sentences = []
    for seed in range(40):
        rng, damaged = random.Random(seed), bytearray(content)
        for place in rng.sample(letters, 2):
            damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            READERS[reader](path)
        except DmcpError as err:
            sentences.append(str(err))
    assert sentences
    assert all(map(str.isprintable, sentences))


def test_an_operator_without_its_inputs_is_one_sentence(tmp_path: Path) -> None:
    path = write_mixed_net(tmp_path / "net.onnx")
    model = onnx.load_model(path)
    del model.graph.node[0].input[1:]
    onnx.save_model(model, path)
    for read in (onnx_layers, read_precision):
        with pytest.raises(DmcpError, match="is damaged: a Conv has 1 inputs and 1 outputs"):
            read(path)
