"""Networks that are measured side by side: how they are timed, and what is known before."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_onnx import write_tiny_net

from dmcp_deploy.bench.artifacts import EngineSet, FileArtifact
from dmcp_deploy.bench.gate import gate_against
from dmcp_deploy.bench.lineup import Lineup
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.runtimes.sampler import Clock


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_net(tmp_path_factory.mktemp("net") / "net.onnx", width=32, size=32).path


def test_a_record_tells_what_the_file_is(net: Path) -> None:
    (found,) = measure_artifacts({"net": net}, BenchOptions([1], 1, 0.1)).measured
    assert (found.precision, found.timing) == ("fp32", "wall")
    assert found.file_bytes == net.stat().st_size
    assert found.weight_bytes == 4 * found.params


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform pins no process")
@pytest.mark.parametrize("threads", [0, 1])
def test_measured_work_is_pinned_if_threads_are_asked_for(
    net: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, before = [], os.sched_getaffinity(0)

    class Watched:
        path, input_shape, runtime = net, (None, 3, 32, 32), "watched"

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *err: object) -> None:
            pass

        def run(self, images: np.ndarray) -> np.ndarray:
            seen.append(len(os.sched_getaffinity(0)))
            return images

    monkeypatch.setattr(FileArtifact, "open", lambda self: Watched())
    how = BenchOptions([1], threads, 0.02)
    record = measure_artifacts({"net": net}, how, warmup_s=0.0)
    assert set(seen) == {threads or len(before)}
    cores = record.environment["pinned_cores"]
    assert (cores is None) == (threads == 0)
    assert os.sched_getaffinity(0) == before
    seen.clear()
    result = gate_against(("old", net), ("new", net), 0.05, replace(how, seconds=0.1))
    assert set(seen) == {threads or len(before)}
    assert result.record.environment["pinned_cores"] == cores


@pytest.mark.slow
def test_the_state_before_and_after_is_recorded(net: Path) -> None:
    for record in (
        measure_artifacts({"net": net}, BenchOptions([1], 1, 0.1)),
        gate_against(("a", net), ("b", net), 0.5, BenchOptions([1], 1, 0.1)).record,
    ):
        for name in ("before", "after"):
            assert len(record.environment[name]["load_average"]) == 3
            assert "gpu" not in record.environment[name]
        assert {"gpus", "gpu_driver", "cuda", "board", "power_mode"} <= record.environment.keys()


@pytest.mark.parametrize("clock", [Clock(graph=True), Clock(graph=False), Clock(transfers=True)])
def test_a_clock_for_gpus_is_refused_on_a_cpu(net: Path, clock: Clock) -> None:
    with pytest.raises(DmcpError, match="for networks on a GPU, and here onnxruntime runs on the"):
        Lineup({"net": FileArtifact(net)}, 1, clock).check([1])


def test_a_graph_with_transfers_is_refused() -> None:
    with pytest.raises(DmcpError, match="--graph and --transfers exclude one another"):
        Clock(graph=True, transfers=True)


def test_every_batch_has_a_file_of_its_own_where_there_are_several(tmp_path: Path) -> None:
    files = {
        batch: write_tiny_net(tmp_path / f"b{batch}.onnx", batch=batch, size=32).path
        for batch in (1, 4)
    }
    record = measure_artifacts(
        {"net": EngineSet(files)}, BenchOptions([1, 4], 0, 0.1), warmup_s=0.0
    )
    assert [(item.batch, item.path) for item in record.measured] == [(1, "b1.onnx"), (4, "b4.onnx")]
    with pytest.raises(DmcpError, match="no engine for batch 2, only for 1, 4"):
        measure_artifacts({"net": EngineSet(files)}, BenchOptions([2], 1, 60))
