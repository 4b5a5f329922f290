"""From a run or an ONNX file to engines, by the command line, with and without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import write_tiny_net
from tiny_runs import ENVIRONMENT, asked, refused, succeed

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.onnxgraph.cost import onnx_cost
from dmcp_deploy.run import api
from dmcp_deploy.run.summary import summarize
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.runtimes.engine_record import EngineRecord, sidecar_path

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed on this platform")
pytestmark = pytest.mark.xdist_group("run")

RTX = ("--runtime", "tensorrt-rtx", "--gpu-arch", "sm86")


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with engines in three precisions and at two batch sizes."""
    folder = tmp_path_factory.mktemp("engines") / "run"
    shutil.copytree(finished_run, folder)
    words = ("--precision", "fp32,fp16,int8", "--batch", "1,4", "--calibration", 32)
    succeed("engine", folder, *RTX, *words)
    return folder


def engines(folder: Path) -> dict[str, EngineRecord]:
    return {path.name: EngineRecord.load(path) for path in sorted(folder.glob("*.engine"))}


def test_a_run_gets_an_engine_for_every_precision_and_batch(run: Path) -> None:
    assert set(engines(run / "engines")) == {
        f"model.{precision}.tensorrt-rtx.b{batch}.sm86.engine"
        for precision in ("fp32", "fp16", "int8")
        for batch in (1, 4)
    }


def test_every_engine_names_its_plan_and_its_onnx_file(run: Path) -> None:
    for record in engines(run / "engines").values():
        assert record.plan_digest == digest_file(run / "plan.json")
        assert record.onnx_digest == digest_file(run / record.onnx)
        assert record.macs == json.loads((run / "plan.json").read_text())["macs"]


def test_half_precision_halves_the_weights(run: Path) -> None:
    records = engines(run / "engines")
    full = records["model.fp32.tensorrt-rtx.b1.sm86.engine"].weight_bytes
    half = records["model.fp16.tensorrt-rtx.b1.sm86.engine"].weight_bytes
    stored = onnx_cost(run / "model.onnx").weight_bytes
    assert full is not None
    assert half is not None
    assert stored <= full <= 1.1 * stored
    assert half < 0.6 * full


def test_the_record_tells_accuracy_and_distance_of_every_precision(run: Path) -> None:
    figures = {name: RunDir(run).figures(f"precision {name}") for name in ("fp32", "fp16", "int8")}
    noise = [figures[name]["parity"]["snr_db"] for name in figures]
    assert noise == sorted(noise, reverse=True)
    assert all(found["images"] == figures["fp32"]["images"] for found in figures.values())
    assert figures["int8"]["calibration_images"] == 32
    assert figures["fp16"]["overflow"] == {}


def test_what_is_built_is_not_built_again(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "engines").iterdir()}
    succeed("engine", run, *RTX, "--precision", "fp16", "--batch", "1,4")
    assert {path: path.stat().st_mtime_ns for path in (run / "engines").iterdir()} == before


def test_a_missing_engine_is_built_again(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    lost = tmp_path / "run/engines/model.fp16.tensorrt-rtx.b4.sm86.engine"
    lost.unlink()
    assert lost.name in succeed("engine", tmp_path / "run", *RTX, "--batch", "4")
    assert EngineRecord.load(lost).precision == "fp16"


def changed_sidecar(engine: Path, **changes: object) -> None:
    sidecar = sidecar_path(engine)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


@pytest.mark.parametrize(
    "change",
    [
        lambda engine: changed_sidecar(engine, runtime_version="1.0.0.1"),
        lambda engine: changed_sidecar(engine, gpu={"name": "Another GPU"}),
        lambda engine: changed_sidecar(engine, options={"optimization_level": 5}),
        lambda engine: sidecar_path(engine).unlink(),
        lambda engine: sidecar_path(engine).write_text("{"),
    ],
    ids=["version", "gpu", "options", "no sidecar", "broken sidecar"],
)
def test_an_engine_that_could_not_be_run_is_built_again(
    run: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    engine = tmp_path / "run/engines/model.fp16.tensorrt-rtx.b1.sm86.engine"
    truth = EngineRecord.load(engine)
    change(engine)
    succeed("engine", tmp_path / "run", *RTX, "--precision", "fp16")
    found = EngineRecord.load(engine)
    assert found.runtime_version == truth.runtime_version
    assert found.gpu is None
    assert found.options == truth.options


def test_another_optimization_level_is_another_build(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    succeed("engine", tmp_path / "run", *RTX, "--optimization-level", 1)
    engine = tmp_path / "run/engines/model.fp16.tensorrt-rtx.b1.sm86.engine"
    assert EngineRecord.load(engine).options["optimization_level"] == 1


def test_of_several_processes_the_first_alone_builds(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr("dmcp_deploy.training.distributed.rank", lambda: 1)
    wanted = {"runtime": "tensorrt-rtx", "precisions": ["fp16"], "batches": [2]}
    assert api.engine(tmp_path / "run", **wanted) == []
    assert not (tmp_path / "run/engines/model.fp16.tensorrt-rtx.b2.engine").exists()


def test_a_summary_leaves_out_what_was_said_of_a_replaced_file(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/engines/model.fp32.tensorrt-rtx.b1.sm86.engine.json").unlink()
    told = summarize(RunDir(tmp_path / "run"))
    assert "in fp16 on" in told
    assert re.search(r"model\.fp16\.tensorrt-rtx\.b1\.sm86\.engine: [\d.]+ MB, layers", told)
    assert "model.fp32.tensorrt-rtx.b1.sm86.engine has no sidecar" in told
    (tmp_path / "run/model.onnx").write_bytes((run / "original.onnx").read_bytes())
    told = summarize(RunDir(tmp_path / "run"))
    assert "in fp16 on" not in told
    assert "model.fp32" not in told


def test_another_number_of_calibration_images_makes_another_network(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    before = digest_file(tmp_path / "run/model.int8.onnx")
    succeed("export", tmp_path / "run", "--precision", "int8", "--calibration", 40)
    assert digest_file(tmp_path / "run/model.int8.onnx") != before


def test_export_tells_what_the_precisions_are_worth(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    summary = succeed("export", tmp_path / "run", "--precision", "fp32,int8")
    assert "in fp32 on" in summary
    assert "in int8 on" in summary
    assert "dB from the trained network" in summary


def test_what_has_been_calibrated_is_kept_unless_another_number_is_given(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    succeed("export", tmp_path / "run", "--precision", "int8", "--calibration", 40)
    before = digest_file(tmp_path / "run/model.int8.onnx")
    succeed("engine", tmp_path / "run", *RTX, "--precision", "int8")
    assert digest_file(tmp_path / "run/model.int8.onnx") == before
    assert RunDir(tmp_path / "run").figures("precision int8")["calibration_images"] == 40


def test_prune_builds_engines_when_it_is_asked_to(
    finished_run: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    words = ("--engine", "tensorrt-rtx", "--engine-precision", "fp16")
    summary = succeed(*asked("prune", tiny_folder, tmp_path / "run", seconds=0.2), *words)
    assert "in fp16 on" in summary
    assert re.search(r"model\.fp16\.tensorrt-rtx\.b1\.engine: [\d.]+ MB, layers", summary)


def test_prune_finds_a_missing_tensorrt_before_any_training(
    tiny_folder: Path, tmp_path: Path
) -> None:
    told = refused(*asked("prune", tiny_folder, tmp_path / "run"), "--engine", "tensorrt")
    assert "tensorrt is not installed here" in told
    assert not (tmp_path / "run").exists()


def test_bench_says_what_an_engine_lacks_here(run: Path) -> None:
    engine = run / "engines/model.fp16.tensorrt-rtx.b1.sm86.engine"
    assert "driver" in refused("bench", engine)


def test_an_onnx_file_gets_its_precisions_beside_the_engines(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", width=64).path
    images = np.random.default_rng(0).standard_normal((32, 3, 16, 16), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    words = ("--precision", "fp16,int8", "--calibration-data", tmp_path / "images.npy")
    succeed("engine", source, *RTX, *words, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "net.fp16.onnx",
        "net.fp16.tensorrt-rtx.b1.sm86.engine",
        "net.fp16.tensorrt-rtx.b1.sm86.engine.json",
        "net.int8.onnx",
        "net.int8.tensorrt-rtx.b1.sm86.engine",
        "net.int8.tensorrt-rtx.b1.sm86.engine.json",
    }


def test_a_file_in_a_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", width=64).path
    succeed("engine", source, *RTX, "--precision", "fp16", "--out", tmp_path)
    half = tmp_path / "net.fp16.onnx"
    digest = digest_file(half)
    printed = succeed("engine", half, *RTX, "--precision", "fp16", "--out", tmp_path / "again")
    assert "net.fp16.tensorrt-rtx.b1.sm86.engine" in printed
    assert digest_file(half) == digest
    assert not list((tmp_path / "again").glob("*.onnx"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "fp61"), r"--precision 'fp61' is unknown: .*did you mean fp16"),
        (("--precision", ""), r"--precision is empty"),
        (("--precision", "int8"), r"int8 is calibrated on images, and there are none"),
        (("--runtime", "tensorrt"), r"tensorrt is not installed here: it comes with JetPack"),
        (("--runtime", "trt"), r"--runtime 'trt' is unknown: choose one of tensorrt"),
        (("--gpu-arch", "sm87"), r"--gpu-arch 'sm87' is unknown"),
        (("--batch", "0"), r"--batch '0' is not understood: give numbers such as 1,8"),
        (("--dynamic-batch", "1,8"), r"--dynamic-batch 1,8 needs three sizes"),
        (("--dynamic-batch", "1,x,8"), r"--dynamic-batch '1,x,8' is not understood"),
        (("--dynamic-batch", "8,4,1"), r"The batch sizes 8, 4, 1 must be 1 or more and not fall"),
        (("--dla", "0"), r"--dla 0: tensorrt-rtx builds for no DLA"),
        (("--timing-cache", "x"), r"--timing-cache: tensorrt-rtx keeps none"),
        (("--optimization-level", "9"), r"--optimization-level 9 must lie in 0..5"),
        (("--calibration-data", "none.npy"), r"There is no file of calibration images none\.npy"),
    ],
)
def test_bad_options_are_told_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    given = ("--runtime", "tensorrt-rtx") if "--runtime" not in words else ()
    assert re.search(message, refused("engine", source, *given, *words))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_all_builds_are_checked_before_the_first(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", batch=4).path
    told = refused("engine", source, *RTX, "--precision", "fp32", "--batch", "4,8")
    assert "has the fixed batch size 4 and cannot be built for 8" in told
    assert not list(tmp_path.rglob("*.engine"))


def test_a_run_is_checked_before_it_is_converted(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    succeed("export", tmp_path / "run", "--batch", 4)
    told = refused("engine", tmp_path / "run", *RTX, "--precision", "fp16", "--batch", "4,8")
    assert "model.onnx has the fixed batch size 4 and cannot be built for 8" in told
    assert not RunDir(tmp_path / "run").is_current("precision fp16")


def test_all_precisions_are_checked_before_the_first_is_converted(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    assert "int8 is calibrated on images" in refused(
        "engine", source, *RTX, "--precision", "fp16,int8"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_place_that_cannot_be_written_to_is_found_before_the_conversion(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    taken = tmp_path / "out/net.fp16.tensorrt-rtx.b1.sm86.engine"
    taken.mkdir(parents=True)
    told = refused("engine", source, *RTX, "--precision", "fp16", "--out", tmp_path / "out")
    assert f"Cannot write {taken}: Is a directory" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == [taken.name]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00v\x00{"])
def test_what_is_no_array_is_told(tmp_path: Path, content: bytes) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    (tmp_path / "images.npy").write_bytes(content)
    words = ("--precision", "int8", "--calibration-data", tmp_path / "images.npy")
    assert "images.npy is no array" in refused("engine", source, *RTX, *words)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_images_are_too_few(run: Path, precision: str) -> None:
    told = refused("export", run, "--precision", precision, "--calibration", 0)
    assert "--calibration 0 must be 1 or more" in told or "There are 0 calibration" in told


def test_a_record_that_cannot_be_saved_is_found_before_the_measurement(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    told = refused("bench", source, "--seconds", 1e6, "--save", source / "record.json")
    assert "Cannot write" in told


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((32, 3, 16, 16)), r"holds float64 \[32, 3, 16, 16\], where calibration needs"),
        (np.zeros((3, 16), np.float32), r"holds float32 \[3, 16\]"),
        (np.zeros((8, 3, 16, 16), np.float32), r"There are 8 calibration images, and 32 are"),
        (np.zeros((32, 3, 8, 8), np.float32), r"net\.onnx takes float32 images \[N, 3, 16, 16\]"),
    ],
)
def test_calibration_images_that_do_not_fit_are_told(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    np.save(tmp_path / "images.npy", array)
    words = ("--precision", "int8", "--calibration-data", tmp_path / "images.npy")
    assert re.search(message, refused("engine", source, *RTX, *words))


def test_calibration_images_are_never_unpickled(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx").path
    np.save(tmp_path / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    words = ("--precision", "int8", "--calibration-data", tmp_path / "images.npy")
    assert "images.npy is no array" in refused("engine", source, *RTX, *words)


def test_too_few_calibration_images_are_found_before_anything_else(run: Path) -> None:
    told = refused("engine", run, *RTX, "--precision", "int8", "--calibration", 5)
    assert "There are 5 calibration images, and 32 are the fewest" in told


def test_a_run_without_its_onnx_file_is_told_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/model.onnx").unlink()
    assert "has no model.onnx yet: run export" in refused("engine", tmp_path / "run", *RTX)


# `sitecustomize` is imported by Python before anything else.
NO_TORCH = """
import sys

sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "safetensors"]))
"""


def on_a_board(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line where importing torch fails."""
    (folder / "sitecustomize.py").write_text(NO_TORCH)
    path = os.pathsep.join([str(folder), ENVIRONMENT["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "dmcp_deploy", *map(str, words)],
        env={**ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_board_without_torch_builds_and_measures(tmp_path: Path) -> None:
    source = write_tiny_net(tmp_path / "net.onnx", width=64).path
    built = on_a_board(tmp_path, "engine", source, *RTX, "--precision", "fp16")
    assert built.returncode == 0, built.stderr
    (engine,) = (tmp_path / "engines").glob("*.engine")
    assert EngineRecord.load(engine).precision == "fp16"
    timed = on_a_board(tmp_path, "bench", source, "--seconds", 0.2)
    assert timed.returncode == 0, timed.stderr


def test_a_board_builds_of_the_converted_file_alone(run: Path, tmp_path: Path) -> None:
    board = tmp_path / "run"
    board.mkdir()
    for name in ("run.json", "plan.json", "model.fp16.onnx"):
        shutil.copy(run / name, board)
    done = on_a_board(tmp_path, "engine", board, *RTX, "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    shutil.copy(run / "original.onnx", board / "model.onnx")
    done = on_a_board(tmp_path, "engine", board, *RTX, "--precision", "fp16")
    assert done.returncode == 1
    assert "model.fp16.onnx was made of another model.onnx: run dmcp-deploy export" in done.stderr


def test_a_board_without_torch_is_told_what_a_run_lacks(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/model.int8.onnx").unlink()
    done = on_a_board(tmp_path, "engine", tmp_path / "run", *RTX, "--precision", "int8")
    assert done.returncode == 1
    assert "has no model.int8.onnx yet: run dmcp-deploy export" in done.stderr
    assert "Traceback" not in done.stderr
