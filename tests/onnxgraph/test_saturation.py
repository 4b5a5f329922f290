from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tiny_onnx import save_graph, write_mixed_net

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.quantize import quantize_int8
from dmcp_deploy.onnxgraph.saturation import can_saturate

IMAGES = np.random.default_rng(0).standard_normal((36, 3, 16, 16), dtype=np.float32)


def write_int8_conv(path: Path, largest: int, *, of_integers: bool = True) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["images"]),
        helper.make_node("DequantizeLinear", ["weight_int8", "scale", "zero"], ["weight"]),
        helper.make_node("Conv", ["images" if of_integers else "input", "weight"], ["logits"]),
    ]
    save_graph(
        path,
        nodes,
        inputs={"input": ["n", 3, 4, 4]},
        outputs={"logits": ["n", 2, 4, 4]},
        weights={
            "scale": np.float32(0.1),
            "zero": np.int8(0),
            "weight_int8": np.array([[largest, 1, 0], [0, 2, -3]], np.int8).reshape(2, 3, 1, 1),
        },
    )
    return path


@pytest.mark.parametrize(("largest", "can"), [(64, False), (-64, False), (65, True), (-128, True)])
def test_a_weight_of_8_bits_can_leave_16_bits_and_one_of_7_cannot(tmp_path, largest, can):
    assert can_saturate(write_int8_conv(tmp_path / "net.onnx", largest)) is can


def test_what_is_computed_in_floating_point_cannot(tmp_path):
    assert not can_saturate(write_mixed_net(tmp_path / "net.onnx"))
    weights_alone = write_int8_conv(tmp_path / "weights.onnx", 127, of_integers=False)
    assert not can_saturate(weights_alone)


def test_the_preset_for_cpus_cannot(tmp_path):
    source = write_mixed_net(tmp_path / "net.onnx")
    for preset, can in (("tensorrt", True), ("cpu", False)):
        report = quantize_int8(source, tmp_path / f"{preset}.onnx", IMAGES, preset)
        assert can_saturate(report.path) is can


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DmcpError, match="There is no ONNX file"):
        can_saturate(tmp_path / "none.onnx")
