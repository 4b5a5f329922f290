from __future__ import annotations

import json
import subprocess
import sys

import pytest
from onnx import helper
from tiny_onnx import save_graph, write_tiny_net

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench import measure
from dmcp_deploy.bench.columns import format_table
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.record import BenchRecord, compare
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions

WITHOUT_TORCH = """
import json, sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, NoTorch())
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.bench.columns import format_table
from dmcp_deploy.bench.record import compare
from dmcp_deploy.options.measure import BenchOptions

wide, narrow, out = map(Path, sys.argv[1:])
nets = {"wide": wide, "narrow": narrow}
record = measure_artifacts(nets, BenchOptions([1], 1, 0.2), warmup_s=0.1)
record.save(out)
assert not any(name.split(".")[0] == "torch" for name in sys.modules)
print(format_table(record))
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    wide = write_tiny_net(folder / "wide.onnx", width=64, size=64)
    narrow = write_tiny_net(folder / "narrow.onnx", width=8, size=64)
    return {"wide": wide, "narrow": narrow}


def test_every_network_is_measured_at_every_batch_in_the_same_rounds(nets):
    paths = {name: net.path for name, net in nets.items()}
    record = measure_artifacts(paths, BenchOptions([1, 4], 1, 0.4), warmup_s=0.1)
    found = [(item.name, item.batch) for item in record.measured]
    assert found == [("wide", 1), ("narrow", 1), ("wide", 4), ("narrow", 4)]
    for item in record.measured:
        net = nets[item.name]
        assert (item.macs, item.params) == (net.macs, net.params)
        assert (item.path, item.digest) == (net.path.name, digest_file(net.path))
        assert (item.runtime, item.threads) == ("onnxruntime", 1)
        assert len(item.samples_ms) >= 20
    assert record.input_shape == (3, 64, 64)
    assert record.environment["cores"] >= 1


def test_networks_that_run_alone_make_calls_of_their_own_before_each_sample(
    nets, monkeypatch, tmp_path
):
    told = []
    interleaved = measure.time_interleaved

    def listening(calls, **how):
        told.append(how["before"])
        return interleaved(calls, **how)

    monkeypatch.setattr(measure, "time_interleaved", listening)
    paths = {name: net.path for name, net in nets.items()}
    for alone, before in ((None, 0), (False, 0), (True, 2)):
        told.clear()
        how = BenchOptions([1], 1, 0.05, alone=alone)
        record = measure_artifacts(paths, how, warmup_s=0.0)
        assert set(told) == {before}
        record.save(tmp_path / "record.json")
        assert BenchRecord.load(tmp_path / "record.json").alone == bool(alone)
        shown = "Each network ran right before each of its samples" in format_table(record)
        assert shown == bool(alone)
        assert ("alone" in json.loads((tmp_path / "record.json").read_text())) == bool(alone)


def test_an_eighth_of_the_width_is_measured_as_faster(nets):
    paths = {name: net.path for name, net in nets.items()}
    record = measure_artifacts(paths, BenchOptions([8], 1, 0.8), warmup_s=0.1)
    (found,) = compare(record, 8)
    assert found.flops_ratio == pytest.approx(nets["narrow"].macs / nets["wide"].macs)
    assert found.latency_high < 0.9
    assert found.verdict == "faster"


def test_a_network_is_not_faster_than_itself(nets):
    paths = {"first": nets["wide"].path, "second": nets["wide"].path}
    record = measure_artifacts(paths, BenchOptions([8], 1, 1.2), warmup_s=0.2)
    (found,) = compare(record, 8)
    assert found.flops_ratio == 1.0
    assert 0.8 < found.latency_ratio < 1.25
    assert found.verdict in ("no difference", "too noisy to tell")


def test_bench_runs_where_torch_cannot_be_imported(nets, tmp_path):
    out = tmp_path / "bench.json"
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH]
    arguments = [str(nets["wide"].path), str(nets["narrow"].path), str(out)]
    done = subprocess.run(
        command + arguments, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("network")
    assert [item.name for item in BenchRecord.load(out).measured] == ["wide", "narrow"]
    assert json.loads(out.read_text(encoding="utf-8"))["measured"][0]["macs"] == nets["wide"].macs


def test_a_fixed_batch_is_measured_at_that_batch_alone(tmp_path):
    net = write_tiny_net(tmp_path / "fixed.onnx", batch=2)
    record = measure_artifacts({"fixed": net.path}, BenchOptions([2, 2], 1, 0.05), warmup_s=0.0)
    assert [item.batch for item in record.measured] == [2]
    with pytest.raises(DmcpError, match=r"fixed .* has the fixed batch size 2 .* measured at 1"):
        measure_artifacts({"fixed": net.path}, BenchOptions([2, 1], 1, 60))


def test_networks_with_different_inputs_are_refused(nets, tmp_path):
    other = write_tiny_net(tmp_path / "small.onnx", size=32)
    paths = {"wide": nets["wide"].path, "small": other.path}
    with pytest.raises(DmcpError, match=r"wide takes images of .*64, 64.* small of .*32, 32"):
        measure_artifacts(paths, BenchOptions([1], 1, 60))


def test_an_open_image_size_and_a_network_without_layers_are_refused(tmp_path):
    net = write_tiny_net(tmp_path / "any.onnx", size="side")
    with pytest.raises(DmcpError, match="leaves the image size open"):
        measure_artifacts({"any": net.path}, BenchOptions([1], 1, 60))
    save_graph(
        tmp_path / "relu.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        inputs={"x": [1, 3, 4, 4]},
        outputs={"y": [1, 3, 4, 4]},
        weights={},
    )
    with pytest.raises(DmcpError, match="no convolution or linear layer"):
        measure_artifacts({"relu": tmp_path / "relu.onnx"}, BenchOptions([1], 1, 60))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seconds": 0}, "--seconds 0 must be above zero"),
        ({"seconds": float("nan")}, "--seconds nan must be above zero"),
        ({"batches": []}, r"batch sizes are \[\]"),
        ({"batches": [1, 0]}, r"batch sizes are \[1, 0\]"),
        ({"threads": -1}, "--threads -1 is too small"),
        ({"artifacts": {}}, "nothing to measure"),
    ],
)
def test_bad_requests_are_refused_before_any_measurement(nets, asked, message):
    files = asked.pop("artifacts", {"wide": nets["wide"].path})
    with pytest.raises(DmcpError, match=message):
        measure_artifacts(files, BenchOptions(**{"threads": 1, "seconds": 600.0, **asked}))


def test_a_missing_or_damaged_file_is_refused_before_any_measurement(nets, tmp_path):
    paths = {"wide": nets["wide"].path, "gone": tmp_path / "gone.onnx"}
    with pytest.raises(DmcpError, match=r"no ONNX file .*gone\.onnx"):
        measure_artifacts(paths, BenchOptions([1], 1, 600))
    paths["gone"].write_bytes(b"not a network")
    with pytest.raises(DmcpError, match=r"gone\.onnx cannot be loaded"):
        measure_artifacts(paths, BenchOptions([1], 1, 600))
