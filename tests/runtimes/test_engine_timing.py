"""How engines are timed: by CUDA events, as a graph, and with transfers, side by side.

TensorRT's runtime is a stand-in, on the host-memory CUDA driver (see test_engine_session.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_files import write_engine
from host_cuda import build_driver, run_python

pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

START = """
import os, sys, json
os.environ.setdefault("DMCP_CUDA_CAPABILITY", "86")  # a GPU that RTX supports
import fake_tensorrt
sys.modules["tensorrt_rtx"] = fake_tensorrt.module()
from pathlib import Path
from dmcp_deploy.bench.columns import format_table
from dmcp_deploy.bench.measure import measure_artifacts
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.measure import BenchOptions
from dmcp_deploy.machine.cuda.device import Device, Graph
from dmcp_deploy.runtimes.tensorrt import EngineSession
from host_cuda import left_behind

engines = {name: Path(path) for name, path in json.loads(FILES).items()}
calls = []

def noted(owner, method):
    inner = getattr(owner, method)
    def note(self, *arguments):
        calls.append(method)
        return inner(self, *arguments)
    setattr(owner, method, note)

noted(EngineSession, "enqueue"), noted(Graph, "launch"), noted(Device, "elapsed_ms")
noted(Device, "copy_in")

def measure(**how):
    calls.clear()
    return measure_artifacts(engines, BenchOptions(seconds=0.05, **how), warmup_s=0.0)

try:
"""
END = """
except DmcpError as err:
    print("error:", err)
assert left_behind() == {}, left_behind()
"""


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver()


def run(driver: Path, folder: Path, code: str, **changes: object) -> list[str]:
    """Returns what code prints that measures two engines."""
    files = {}
    for name in ("wide", "narrow"):
        (folder / name).mkdir(exist_ok=True)
        path, _ = write_engine(folder / name, targets=(), **changes)
        files[name] = str(path)
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    text = f"FILES = {json.dumps(files)!r}\n" + START + body + END
    return run_python(text, driver).splitlines()


@pytest.mark.slow
def test_an_engine_is_timed_as_asked(tmp_path: Path, driver: Path) -> None:
    code = """
for how in ({}, {"graph": True}, {"graph": False}, {"transfers": True}):
    record = measure(**how)
    counts = {name: calls.count(name) for name in calls}
    samples = [len(item.samples_ms) for item in record.measured]
    print(json.dumps([[item.timing for item in record.measured], counts, samples]))
environment = record.environment
print(environment["gpus"][0]["compute_capability"], environment["cuda"].count("."))
"""
    events = {"elapsed_ms"}
    expected: list[tuple[str, set[str], set[str]]] = [
        ("events+graph", {"launch"} | events, set()),
        ("events+graph", {"launch"} | events, set()),
        ("events", {"enqueue"} | events, {"launch"}),
        ("wall with transfers", {"enqueue", "copy_in"}, {"launch"} | events),
    ]
    *found, environment = run(driver, tmp_path, code)
    for line, (timing, made, not_made) in zip(found, expected, strict=True):
        timings, counts, samples = json.loads(line)
        assert timings == [timing, timing]
        assert samples[0] == samples[1] >= 2
        assert all(counts[name] >= sum(samples) for name in made)
        assert not not_made & counts.keys()
    assert environment == "8.6 1"


def test_copies_are_no_part_of_a_sample_by_events(tmp_path: Path, driver: Path) -> None:
    code = """
samples = sum(len(item.samples_ms) for item in measure(graph=False).measured)
print(calls.count("copy_in"), samples)
"""
    copies, samples = map(int, run(driver, tmp_path, code)[0].split())
    # One for each network and load: of the check, both states and the four parts.
    assert copies <= 2 * 7 < samples


def test_engines_are_timed_round_by_round(tmp_path: Path, driver: Path) -> None:
    code = """
order = []
def enqueue(self):
    order.append(self.path.parent.name)
    return run(self)
run, EngineSession.enqueue = EngineSession.enqueue, enqueue
measure(graph=False)
rounds = [set(order[i : i + 2]) for i in range(0, len(order), 2)]
print(len(rounds) > 10, all(names == {"wide", "narrow"} for names in rounds))
"""
    assert run(driver, tmp_path, code) == ["True True"]


def test_one_engine_is_measured_at_every_batch_it_takes(tmp_path: Path, driver: Path) -> None:
    code = """
record = measure(batches=(1, 4))
print([(item.name, item.batch) for item in record.measured])
print(format_table(record).splitlines()[-1])
"""
    found, note, *_ = run(driver, tmp_path, code, batches=(1, 4, 8))
    assert found == "[('wide', 1), ('narrow', 1), ('wide', 4), ('narrow', 4)]"
    assert note.startswith(
        ("Timed by CUDA events, without transfers, as a CUDA graph", "Too noisy")
    )


def test_an_engine_that_fails_is_one_sentence_before_the_measurement(
    tmp_path: Path, driver: Path
) -> None:
    told = run(driver, tmp_path, "measure()", content=b"fails")
    assert len(told) == 1
    assert "cannot run on" in told[0]


def test_images_of_a_prepared_run_are_the_ones_given(tmp_path: Path, driver: Path) -> None:
    code = """
import numpy as np
with EngineSession(engines["wide"]) as session:
    for images in (np.ones((1, 3, 16, 16), np.float32), None):
        session.prepare(1, images)()
        session.device.synchronize()
        buffers = session._buffers[1]
        session.device.copy_out(buffers.logits, buffers.output)
        session.device.synchronize()
        print(buffers.logits.tolist())
"""
    assert run(driver, tmp_path, code) == ["[[1.0, 1.0, 1.0]]", "[[0.0, 0.0, 0.0]]"]


def test_a_library_without_graphs_is_timed_without_them_unless_asked(
    tmp_path: Path, driver: Path
) -> None:
    code = """
def without_graphs(self):
    self._graphs = None
    return enter(self)
enter, Device.__enter__ = Device.__enter__, without_graphs
print({item.timing for item in measure().measured})
measure(graph=True)
"""
    timed, refused = run(driver, tmp_path, code)
    assert timed == "{'events'}"
    assert "has no CUDA graphs: pip install cuda-python" in refused
