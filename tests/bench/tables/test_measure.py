from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.artifacts import FileArtifact
from dmcp_deploy.bench.tables import measure as table_measure
from dmcp_deploy.bench.tables.make import make_table
from dmcp_deploy.bench.tables.measure import measure_probes, split_kernels
from dmcp_deploy.bench.tables.predict import Predictor
from dmcp_deploy.bench.tables.probes import LayerForm, ProbedGroup, ProbeSet, WidthForm
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.runtimes.profile import KernelTime

SETTING = Setting(threads=1)
WIDTHS = {"full": 64, "probe001": 8, "probe002": 24, "probe003": 48}
SPEC = NetworkSpec("tiny:net", 1.0, 5, (3, 32, 32))


def probe_set() -> ProbeSet:
    group = {"conv": 1}
    forms = {
        "conv": LayerForm(WidthForm(3, {}), WidthForm(0, group)),
        "linear": LayerForm(WidthForm(0, group), WidthForm(5, {})),
    }
    widths = {name: {"conv": width} for name, width in WIDTHS.items()}
    return ProbeSet(SPEC, 8, 0, {"conv": ProbedGroup(64, 1)}, forms, widths)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    for name, width in WIDTHS.items():
        write_tiny_net(folder / f"{name}.onnx", width=width, size=32)
    probe_set().save(folder)
    return folder


def artifacts(folder, setting=SETTING):
    files = probe_set().files(folder)
    return {n: FileArtifact(p, setting.runtime, setting.threads) for n, p in files.items()}


def measure(folder, part, setting=SETTING, **options):
    found = artifacts(folder, setting)
    return measure_probes(found, SPEC.input_shape, setting, part, **options)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_measured_probes_make_a_table_that_predicts(folder, tmp_path, runtime):
    pytest.importorskip(runtime)
    setting = Setting(runtime, "fp32", 1, 1)
    measured = measure(folder, tmp_path / "part.json", setting, passes=2)
    files = probe_set().files(folder)
    table = make_table(probe_set(), files, setting, measured)
    assert [layer.name for layer in table.layers] == ["conv", "linear"]
    conv, linear = table.layers
    assert (conv.kind, conv.kernel, conv.sides) == ("conv", (1, 1), (32, 32))
    assert conv.out_channels == linear.in_channels == tuple(WIDTHS.values())
    assert linear.out_channels == (5,) * 4
    assert conv.form is not None
    assert sum(conv.own.ms) > 0
    assert sum(conv.after.ms) > 0  # the pooling that follows it
    assert table.ran_by.startswith(f"{runtime} ")
    assert table.ran_by.endswith(" fp32")
    assert min(table.whole.ms) > 0
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    found = Predictor(table).predict_file(files["probe002"], "probe002")
    assert [layer.out_channels for layer in found.layers] == [24, 5]
    assert 0 < found.latency_ms < 100


def test_kernels_of_no_layer_count_with_the_layer_before_them():
    kernels = [
        KernelTime("reorder", "Reorder", None, (1.0, 2.0)),
        KernelTime("a", "Conv", "first", (10.0, 20.0)),
        KernelTime("a2", "Conv", "first", (5.0, 5.0)),
        KernelTime("pool", "Pool", None, (0.5, 0.5)),
        KernelTime("b", "Conv", "second", (7.0, 8.0)),
    ]
    own, after = split_kernels(kernels)
    assert own == {"first": [15.0, 25.0], "second": [7.0, 8.0]}
    assert after == {"first": [1.5, 2.5]}
    with pytest.raises(DmcpError, match="names no layer"):
        split_kernels(kernels[:1])


def test_a_stopped_measurement_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    part, real, done = tmp_path / "part.json", table_measure._measure, []

    def stops(artifact, images, setting):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(artifact.path.stem)
        return real(artifact, images, setting)

    monkeypatch.setattr(table_measure, "_measure", stops)
    with pytest.raises(KeyboardInterrupt):
        measure(folder, part, passes=2)
    kept = json.loads(part.read_text(encoding="utf-8"))["steps"]
    assert [step["probe"] for step in kept] == done
    done.clear()
    measured = measure(folder, part, passes=2)
    assert len(done) == 3
    first = measured.steps[kept[0]["probe"]][kept[0]["pass"]]
    assert list(first.whole_ms) == kept[0]["whole_ms"]
    assert {name: len(steps) for name, steps in measured.steps.items()} == dict.fromkeys(WIDTHS, 2)


def test_each_pass_has_an_order_of_its_own(folder, tmp_path, monkeypatch):
    seen = []
    real = table_measure._measure

    def noted(artifact, images, setting):
        seen.append(artifact.path.stem)
        return real(artifact, images, setting)

    monkeypatch.setattr(table_measure, "_measure", noted)
    measure(folder, tmp_path / "part.json", passes=3)
    passes = [seen[start : start + 4] for start in (0, 4, 8)]
    assert all(sorted(order) == sorted(WIDTHS) for order in passes)
    assert len({tuple(order) for order in passes}) > 1


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("device", "cpu"), "another", "with another device: delete it"),
        (("setting", "threads"), 3, "with another setting: delete it"),
        (("probes",), "sha256:0", "with another probes: delete it"),
        (("libraries", "onnxruntime"), "0.1", "with another libraries: delete it"),
        (("steps",), [{}], "lacks or misstates 'pass'"),
        (("schema_version",), 9, "has schema version 9"),
    ],
)
def test_what_was_measured_otherwise_is_not_gone_on_with(folder, tmp_path, keys, value, message):
    part = tmp_path / "part.json"
    measure(folder, part, passes=1)
    content = json.loads(part.read_text(encoding="utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    part.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DmcpError, match=message):
        measure(folder, part, passes=1)


def test_a_missing_probe_and_damaged_probes_are_refused(folder, tmp_path):
    with pytest.raises(DmcpError, match=r"no probe network .*full\.onnx"):
        probe_set().files(tmp_path)
    with pytest.raises(DmcpError, match="There is no table-probes file"):
        ProbeSet.load(tmp_path)
    content = json.loads((folder / "probes.json").read_text(encoding="utf-8"))
    (tmp_path / "probes.json").write_text(json.dumps({**content, "align": "x"}), encoding="utf-8")
    with pytest.raises(DmcpError, match="lacks or misstates"):
        ProbeSet.load(tmp_path)
    del content["probes"]["full"]["conv"]
    (tmp_path / "probes.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DmcpError, match="full has other groups than the network"):
        ProbeSet.load(tmp_path)
    assert ProbeSet.load(folder) == probe_set()


WITHOUT_TORCH = """
import sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, NoTorch())
import dmcp_deploy
folder, out = map(Path, sys.argv[1:])
table = dmcp_deploy.table_build(folder, out, threads=1)
(found,) = dmcp_deploy.table_predict(out, folder / "probe001.onnx")
assert found.layers[0].out_channels == 8
assert not out.with_suffix(".part.json").exists()
print(len(table.layers))
"""


def test_a_table_is_built_and_used_where_torch_cannot_be_imported(folder, tmp_path):
    arguments = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, folder, tmp_path / "t.json"]
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
