"""INT8 that misses its tolerance: the layer at fault is found, kept in FP32 and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.precisions import Evidence, convert_judged
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.export.verify import FidelityError
from dmcp_deploy.onnxgraph.file import inspect_onnx
from dmcp_deploy.progress import NO_PROGRESS, NoProgress
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

IMAGES = np.random.default_rng(0).standard_normal((48, 3, 12, 12), dtype=np.float32)


def network(outliers: tuple[int, ...]) -> nn.Module:
    """Returns convolutions in a row, some of which read a channel 4000 times the others.

    The weights undo it, so that the network is the same in FP32; in INT8 the one scale of such
    activations leaves nothing of the other channels.
    """
    torch.manual_seed(0)
    sizes = [(3, 8), *[(8, 8)] * 10]
    convs = [nn.Conv2d(*size, 3, padding=1, bias=False) for size in sizes]
    with torch.no_grad():
        for place in outliers:
            convs[place - 1].weight[0] *= 4000
            convs[place].weight[:, 0] /= 4000
    layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5, bias=False)
    ).eval()


def exported(folder: Path, outliers: tuple[int, ...]) -> Path:
    source = folder / "net.onnx"
    export_onnx(network(outliers), source, input_shape=(3, 12, 12))
    return source


def evidence(source: Path, method: str = "minmax") -> Evidence:
    with OnnxSession(source, exact=True) as session:
        reference = session.run(IMAGES)
    batches = [(part, np.zeros(len(part), dtype=np.int64)) for part in np.split(IMAGES, 4)]
    return Evidence(IMAGES[:32], lambda: batches, 4, reference, method)


class Told(NoProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("outliers", [(), (3,), (2, 5)])
def test_just_the_layers_at_fault_stay_in_fp32_and_are_named(outliers, tmp_path: Path) -> None:
    source, path, told = exported(tmp_path, outliers), tmp_path / "int8.onnx", Told()
    figures = convert_judged(source, path, "int8", evidence(source), told)
    names = sorted(str(2 * place) for place in outliers)
    assert sorted(figures.get("mended", ())) == names
    assert figures["quantized"] == 12 - len(outliers)
    assert figures["parity"]["snr_db"] > 10
    assert figures.get("mended_macs_share", 0) == pytest.approx(
        len(outliers) * 64 / (3 * 8 + 10 * 64 + 40 / (9 * 144)), rel=1e-6
    )
    assert inspect_onnx(path).precision == "int8"
    props = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert sorted(filter(None, props.get("fp32_layers", "").split(","))) == names
    assert all(name in told.lines[-1] for name in names)
    assert list(tmp_path.glob("*.trial.onnx")) == []


def test_too_much_of_the_work_in_fp32_is_refused_with_what_helps(tmp_path: Path) -> None:
    source = exported(tmp_path, (1, 3, 5))
    with pytest.raises(DmcpError, match="the signal-to-noise ratio is") as error:
        convert_judged(source, tmp_path / "int8.onnx", "int8", evidence(source), NO_PROGRESS)
    assert "left in fp32" in str(error.value)
    assert "--calibration-method percentile or entropy" in str(error.value)
    assert list(tmp_path.glob("*.trial.onnx")) == []


def test_other_methods_of_calibration_are_passed_on(tmp_path: Path) -> None:
    source = exported(tmp_path, ())
    path = tmp_path / "int8.onnx"
    figures = convert_judged(source, path, "int8", evidence(source, "percentile"), NO_PROGRESS)
    assert figures["method"] == "percentile"


def test_other_precisions_are_refused_as_before(tmp_path: Path) -> None:
    source = exported(tmp_path, ())
    other = evidence(source)
    wrong = Evidence(other.calibration, other.validation, 4, -other.reference)
    with pytest.raises(FidelityError):
        convert_judged(source, tmp_path / "fp16.onnx", "fp16", wrong, NO_PROGRESS)
