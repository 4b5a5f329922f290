"""What benchmarks/loader.py says of a run's samples: data or compute, and how many cores."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loader.py"


@pytest.fixture(scope="module")
def benchmark():
    if not SCRIPT.exists():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("loader_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(load_s: dict[str, list[float]], both_s: dict[str, list[float]]) -> dict[str, object]:
    """Returns a run of 10 batches of 100: steps take 1 s or 1000 images/s, loading 4 ms of CPU."""
    return {
        **{"data": "x", "model": "m", "image_size": 224, "device": "cpu"},
        **{"batches": 10, "batch_size": 100, "stored_bytes": 1e5, "step_s": [9.0, 1.0, 1.0]},
        **{"load_cpu_s": [4.0, 4.0, 9.0], "load_s": load_s, "both_s": both_s},
    }


def test_compute_is_the_limit_where_steps_hardly_wait(benchmark):
    found = run(
        {"0": [4.0], "4": [1.1], "8": [0.5]}, {"0": [5.0], "4": [1.2], "8": [1.04, 1.0, 9.0]}
    )
    assert benchmark.verdict(found).startswith("compute is the limit from 8 workers on (1,000")
    rows = benchmark.report([found]).splitlines()[2:5]
    assert [row.split(" | ")[-1] for row in rows] == ["data |", "data |", "compute |"]
    assert rows[0].split(" | ")[3:8] == ["4.00", "0", "250", "25.0", "1,000"]
    assert rows[0].split(" | ")[9] == "80%"


def test_data_is_the_limit_where_they_wait_and_cores_are_counted(benchmark):
    found = benchmark.verdict(run({"0": [4.0], "2": [2.0]}, {"0": [5.0], "2": [2.0]}))
    assert "data is the limit: steps take 1,000 images/s, 2 workers load 500" in found
    assert "cores for workers: 4," in found


def test_workers_that_take_the_steps_cores_are_told_apart(benchmark):
    found = benchmark.verdict(run({"2": [0.5]}, {"2": [1.5]}))
    assert "2 workers alone load 2,000 images/s" in found
    assert "share the machine: 4 of its cores" in found


def test_made_pictures_are_of_imagenets_size(benchmark, tmp_path):
    folder = benchmark.make_pictures(tmp_path, 2)
    sizes = [path.stat().st_size for path in folder.glob("train/*/*.jpg")]
    assert len(sizes) == 2
    assert all(105_000 < size < 125_000 for size in sizes)
