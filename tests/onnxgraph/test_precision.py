"""The precision of an ONNX file, read where the file need not be one that TensorRT takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import write_tiny_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.export.quantize import quantize_int8
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.onnxgraph.precision import read_precision


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "bf16", "int8")}
    write_tiny_net(files["fp32"], width=16)
    for name in ("fp16", "bf16"):
        to_half(files["fp32"], files[name], name)
    images = np.random.default_rng(0).standard_normal((32, 3, 16, 16), dtype=np.float32)
    quantize_int8(files["fp32"], files["int8"], images, "cpu")
    return files


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "int8"])
def test_it_is_what_the_strict_reading_finds(files: dict[str, Path], name: str) -> None:
    assert read_precision(files[name]) == name == inspect_onnx(files[name]).precision


def test_a_file_of_an_older_operator_set_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "old.onnx", np.float32, opset=8)
    with pytest.raises(DmcpError, match="opset 8"):
        inspect_onnx(path)
    assert read_precision(path) == "fp32"


def test_another_precision_is_none(tmp_path: Path) -> None:
    assert read_precision(save(tmp_path / "double.onnx", np.float64)) is None


def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"There is no ONNX file .*gone\.onnx"):
        read_precision(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_bytes(b"not a network")
    with pytest.raises(DmcpError, match="is not an ONNX file"):
        read_precision(tmp_path / "text.onnx")


def save(path: Path, kind: type, opset: int = 20) -> Path:
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), kind), "w")
    shape, element = [1, 3, 4, 4], helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, [1, 2, 4, 4])],
        [weight],
    )
    assert element in (TensorProto.FLOAT, TensorProto.DOUBLE)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save_model(model, str(path))
    return path
