from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.metrics import Metrics, read_metrics


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics" / "search.jsonl"


def report(path: Path, steps: range, mark: float = 0.0, from_step: int | None = None) -> None:
    with Metrics(path, steps.start if from_step is None else from_step) as metrics:
        for step in steps:
            metrics.write(step, {"loss": step + mark})


def test_reports_are_read_in_order(path):
    report(path, range(3))
    assert read_metrics(path) == [{"step": step, "loss": float(step)} for step in range(3)]


def test_a_resumed_run_has_each_step_once(path):
    report(path, range(5))
    report(path, range(3, 7), mark=0.5)
    steps = [(r["step"], r["loss"]) for r in read_metrics(path)]
    assert steps == [(0, 0), (1, 1), (2, 2), (3, 3.5), (4, 4.5), (5, 5.5), (6, 6.5)]


def test_a_run_that_starts_anew_drops_all_reports(path):
    report(path, range(5))
    report(path, range(2), mark=0.5)
    assert [r["loss"] for r in read_metrics(path)] == [0.5, 1.5]


@pytest.mark.parametrize("half", ['{"step": 3, "lo', '{"ste', "[]", '{"loss": 1}', "null", ""])
def test_a_line_that_was_left_half_written_is_passed_over_and_dropped(path, half):
    report(path, range(3))
    with path.open("a") as file:
        file.write(half)
    assert [r["step"] for r in read_metrics(path)] == [0, 1, 2]
    report(path, range(3, 5))
    assert [r["step"] for r in read_metrics(path)] == [0, 1, 2, 3, 4]
    assert all("step" in json.loads(line) for line in path.read_text().splitlines())


def test_reports_are_on_disk_at_once(path):
    with Metrics(path) as metrics:
        metrics.write(0, {"loss": 1.0})
        assert len(read_metrics(path)) == 1


def test_six_digits_are_kept(path):
    with Metrics(path) as metrics:
        metrics.write(0, {"a": 1 / 3, "b": 123456789.0, "c": 1e-9 / 3})
    assert read_metrics(path) == [{"step": 0, "a": 0.333333, "b": 123457000.0, "c": 3.33333e-10}]


def test_no_file_no_reports(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    with Metrics(None) as metrics:
        metrics.write(0, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_is_told_the_same(path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Metrics(path, tensorboard=True) as metrics:
        for step in range(3):
            metrics.write(step, {"loss": step / 2})
    events = EventAccumulator(str(path.with_suffix("")))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_without_tensorboard_the_user_is_told_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DmcpError, match=r"dmcp-deploy\[tensorboard\]"):
        Metrics(path, tensorboard=True)
