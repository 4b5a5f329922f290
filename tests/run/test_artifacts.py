"""From files to what is measured: torch networks of a run, engines that are built first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from closeness import difference
from tiny_onnx import write_mixed_net, write_tiny_net
from tiny_runs import changed, refused, snapshot, succeed
from training_tasks import Said

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.artifacts import EngineSet, FileArtifact
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.lower_precision import to_half
from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.export.quantize import quantize_int8
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.progress import NO_PROGRESS
from dmcp_deploy.run import api, gates
from dmcp_deploy.run.artifacts import artifacts_of
from dmcp_deploy.rundir.files import run_files
from dmcp_deploy.runtimes.engine_record import EngineRecord

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    return folder


@pytest.mark.slow
def test_a_run_is_measured_in_torch(run: Path) -> None:
    words = ("--runtime", "torch", "--threads", 1, "--seconds", 0.2, "--batch", "1,2")
    table = succeed("bench", run, *words, "--wide")
    assert "torch c" in table
    record = BenchRecord.load(run / "bench.json")
    original, pruned = record.at_batch(2)
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert (original.name, original.macs) == ("original", plan["full_macs"])
    assert (pruned.name, pruned.macs, pruned.params) == ("pruned", plan["macs"], plan["params"])
    assert (pruned.path, pruned.precision) == ("dense.safetensors", "fp32")
    assert pruned.digest == digest_file(run / "dense.safetensors")
    assert record.environment["pinned_cores"] is not None


def test_torch_computes_what_the_onnx_files_do(run: Path) -> None:
    files = run_files(run)
    in_torch = artifacts_of(files, BenchOptions(runtime="torch"), NO_PROGRESS)
    in_onnx = artifacts_of(files, BenchOptions(), NO_PROGRESS)
    for name in files:
        with in_torch[name].open() as ours, in_onnx[name].open() as theirs:
            _, channels, height, width = theirs.input_shape
            assert ours.input_shape[1:] == (channels, height, width)
            shape = (2, int(channels or 0), int(height or 0), int(width or 0))
            images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            assert difference(theirs.run(images), ours.run(images)) <= ONNX_TOLERANCE


@pytest.mark.slow
def test_a_run_against_another_is_gated_in_torch(run: Path, finished_run: Path) -> None:
    result = gates.gate(
        run, against=finished_run, threads=1, seconds=0.5, max_regress="900%", runtime="torch"
    )
    assert not result.is_regression
    assert {item.path for item in result.record.measured} == {"dense.safetensors"}


def test_torch_measures_no_file_that_is_of_no_run(tmp_path: Path) -> None:
    write_tiny_net(tmp_path / "model.onnx")
    sentence = refused("bench", tmp_path / "model.onnx", "--runtime", "torch")
    assert "is no network of a run, which torch needs: give the run directory" in sentence


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--runtime", "torsh"], "did you mean torch?"),
        (["--runtime", "tensorrt-rxt"], "did you mean tensorrt-rtx"),
        (["--precision", "fp16"], "--precision fp16 is for engines that are built"),
        (["--runtime", "tensorrt", "--precision", "fp61"], "'fp61' is unknown"),
        (["--graph"], "are for networks on a GPU, and here onnxruntime runs on the CPU"),
        (["--no-graph"], "are for networks on a GPU"),
        (["--transfers"], "are for networks on a GPU"),
        (["--graph", "--transfers"], "--graph and --transfers exclude one another"),
        (["--threads", "-1"], "--threads -1 is too small"),
        (["--threads", "two"], "--threads 'two' is not understood: give a whole number"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(
    tmp_path: Path, words: list[str], named: str
) -> None:
    path = write_tiny_net(tmp_path / "net.onnx").path
    assert named in refused("bench", path, *words)


# ---- engines ----


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets engines be built for a GPU that is not here."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed on this platform")
    monkeypatch.setattr("dmcp_deploy.run.artifacts.open_device", lambda: None)


def engines(folder: Path, *names: str, **options: object) -> dict[str, EngineSet]:
    files = {name: folder / f"{name}.onnx" for name in names}
    wanted = BenchOptions(**{"runtime": "tensorrt-rtx", **options})  # type: ignore[arg-type]
    found = artifacts_of(files, wanted, NO_PROGRESS)
    assert all(isinstance(item, EngineSet) for item in found.values())
    return found  # type: ignore[return-value]


def test_without_a_gpu_no_engine_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed on this platform")

    def missing() -> None:
        raise DmcpError("There is no NVIDIA driver here.")

    monkeypatch.setattr("dmcp_deploy.run.artifacts.open_device", missing)
    path = write_tiny_net(tmp_path / "net.onnx").path
    before = snapshot(tmp_path)
    for command in (("bench", path), ("bench", path, "--against", path)):
        assert refused(*command, "--runtime", "tensorrt-rtx") == "There is no NVIDIA driver here."
    assert not changed(before, snapshot(tmp_path))
    with pytest.raises(DmcpError, match="no NVIDIA driver"):  # long before the measurement
        api.prune("mobilenet_v2", "211M", bench_options={"runtime": "tensorrt-rtx"})


@pytest.mark.usefixtures("no_gpu_needed")
def test_an_engine_is_built_for_every_batch_and_kept_as_long_as_it_holds(tmp_path: Path) -> None:
    write_tiny_net(tmp_path / "a.onnx")
    write_tiny_net(tmp_path / "b.onnx", width=16)
    found = engines(tmp_path, "a", "b", batches=(1, 4))
    assert [path.name for path in found["b"].engines.values()] == [
        "b.fp16.tensorrt-rtx.b1.engine",
        "b.fp16.tensorrt-rtx.b4.engine",
    ]
    assert EngineRecord.load(found["a"].engines[4]).batches == (4, 4, 4)
    assert found["a"].facts().precision == "fp16"
    before = snapshot(tmp_path / "engines")
    assert engines(tmp_path, "a", "b", batches=(4, 1))["a"].engines[1] == found["a"].engines[1]
    again = changed(before, snapshot(tmp_path / "engines"))
    assert not [name for name in again if name.endswith(".engine")]
    write_tiny_net(tmp_path / "a.onnx", width=32)  # another network of the same name
    engines(tmp_path, "a", "b", batches=(1,))
    again = changed(before, snapshot(tmp_path / "engines"))
    assert [name for name in again if name.endswith("engine")] == ["a.fp16.tensorrt-rtx.b1.engine"]


@pytest.mark.usefixtures("no_gpu_needed")
def test_a_file_of_another_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    write_tiny_net(tmp_path / "net.onnx")
    to_half(tmp_path / "net.onnx", tmp_path / "net.bf16.onnx", "bf16")
    assert engines(tmp_path, "net.bf16")["net.bf16"].facts().precision == "bf16"
    assert engines(tmp_path, "net", precision="fp32")["net"].facts().precision == "fp32"
    with pytest.raises(DmcpError, match=r"net\.bf16\.onnx is bf16 already"):
        engines(tmp_path, "net.bf16", precision="fp16")


@pytest.mark.usefixtures("no_gpu_needed")
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_what_must_be_calibrated_first_is_refused(tmp_path: Path, precision: str) -> None:
    write_tiny_net(tmp_path / "net.onnx")
    with pytest.raises(DmcpError, match=f"--precision {precision} is calibrated on images, which"):
        engines(tmp_path, "net", precision=precision)
    assert not (tmp_path / "engines").exists()


@pytest.mark.usefixtures("no_gpu_needed")
def test_all_files_are_checked_before_the_first_engine_is_built(tmp_path: Path) -> None:
    write_tiny_net(tmp_path / "net.onnx")
    write_tiny_net(tmp_path / "fixed.onnx", batch=2)
    with pytest.raises(DmcpError, match="has the fixed batch size 2"):
        engines(tmp_path, "net", "fixed", batches=(1,))
    assert not list(tmp_path.rglob("*.engine"))


def test_an_engine_is_measured_as_it_is_in_any_runtime(tmp_path: Path) -> None:
    files = {"net": tmp_path / "net.engine"}
    for runtime in ("onnxruntime", "torch", "tensorrt-rtx"):
        found = artifacts_of(files, BenchOptions(runtime=runtime), NO_PROGRESS)
        assert found == {"net": FileArtifact(files["net"], runtime, 0)}


@pytest.mark.parametrize("adds_in_16_bits", [True, False])
def test_int8_that_this_processor_may_compute_wrongly_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adds_in_16_bits: bool
) -> None:
    monkeypatch.setattr("dmcp_deploy.run.artifacts.adds_int8_in_16_bits", lambda: adds_in_16_bits)
    files = {name: tmp_path / f"{name}.onnx" for name in ("net", "tensorrt", "cpu", "none")}
    write_mixed_net(files["net"])
    images = np.random.default_rng(0).standard_normal((32, 3, 16, 16), dtype=np.float32)
    for preset in ("tensorrt", "cpu"):
        quantize_int8(files["net"], files[preset], images, preset)
    said = Said()
    assert artifacts_of(files, BenchOptions(), said).keys() == files.keys()
    wrong = [files["tensorrt"]] if adds_in_16_bits else []
    assert [line.partition(" can give wrong answers")[0] for line in said.lines] == [
        *map(str, wrong)
    ]


def test_a_run_measured_before_the_later_options_is_still_current() -> None:
    assert BenchOptions((1, 8), 2, 5.0).to_json() == {
        "batches": [1, 8],
        "threads": 2,
        "seconds": 5.0,
        "runtime": "onnxruntime",
    }
    assert BenchOptions(transfers=True, graph=False).to_json().items() >= {
        ("transfers", True),
        ("graph", False),
    }
