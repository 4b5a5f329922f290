from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layer_records import HALF, LIMITS, RECORD, WHOLE, layer, profiled, timed

from dmcp_deploy.bench.layers.record import LayersRecord, LayerTime, OtherKernels
from dmcp_deploy.errors import DmcpError


def test_figures_are_derived_from_the_samples():
    item = LayerTime(layer("a", 10, 10), (2.0, 1.0, 4.0))
    assert item.median_ms == 2.0
    assert item.gmacs_per_s == pytest.approx(1e6 / 2e-3 / 1e9)
    assert WHOLE.median_sum_ms == pytest.approx(2.0 + 3.0 + 0.5 + 0.05)
    assert WHOLE.smallest_ms == pytest.approx(0.005)
    assert WHOLE.network_median_ms == 9.0
    assert WHOLE.find("last") is WHOLE.layers[1]
    assert WHOLE.find("none") is None


@pytest.mark.parametrize("limits", [LIMITS, None, replace(LIMITS, cached_gbytes_per_s=50.0)])
def test_a_record_read_back_is_the_record(tmp_path, limits):
    record = replace(RECORD, networks=(replace(WHOLE, limits=limits), HALF))
    record.save(tmp_path / "layers.json")
    assert LayersRecord.load(tmp_path / "layers.json") == record
    assert json.loads((tmp_path / "layers.json").read_text())["kind"] == "layers"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["networks"][0]["layers"][0].update(samples_ms=[]), "first has no samples"),
        (lambda c: c["networks"][0].update(network_ms=[float("nan")]), "a sample of nan ms"),
        (lambda c: c["networks"][0]["others"][0].update(samples_ms=[0.0] * 20), "of 0.0 ms"),
        (lambda c: c["networks"][0]["layers"][0].update(samples_ms=[1.0]), "numbers of samples"),
        (lambda c: c["networks"][0]["layers"][0].update(samples_ms="123"), "misstates"),
        (lambda c: c["networks"][0]["layers"][0]["layer"].update(macs=0), "0 multiply-adds"),
        (lambda c: c["networks"][0]["layers"][0]["layer"].pop("bytes"), "misstates 'bytes'"),
        (lambda c: c["networks"][0].update(layers=[]), "no layer that was timed"),
        (lambda c: c["networks"][0].update(name="half"), "profiled twice"),
        (lambda c: c["networks"][0].update(batch=2), "different batch sizes"),
        (lambda c: c["networks"][0].update(batch=0), "batch size 0"),
        (lambda c: c["networks"][0].update(network_ms=[1.0]), "side by side"),
        (lambda c: c["networks"][0]["limits"].update(gmacs_per_s=0), "limits"),
        (lambda c: c.update(networks=[]), "at least one"),
        (lambda c: c.update(networks=None), "misstates"),
        (lambda c: c.update(schema_version=99), "schema version 99"),
        (lambda c: c.update(kind="bench"), "is not a layers file"),
    ],
)
def test_a_bad_record_is_one_sentence(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "layers.json"
    RECORD.save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DmcpError, match=message):
        LayersRecord.load(path)


def test_a_missing_record_is_one_sentence(tmp_path):
    with pytest.raises(DmcpError, match="There is no layers file"):
        LayersRecord.load(tmp_path / "layers.json")


def test_a_layer_stands_once_in_a_network():
    with pytest.raises(DmcpError, match="stands twice"):
        profiled("net", timed(layer("a", 8, 8), 1.0), timed(layer("a", 8, 8), 1.0))
    with pytest.raises(DmcpError, match="0 kernels of kind Pool"):
        OtherKernels("Pool", 0, (1.0,))
