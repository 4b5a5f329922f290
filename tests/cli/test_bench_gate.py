"""`bench` as a gate: exit codes, what is printed, what is refused."""

from __future__ import annotations

import json
import time

import click.testing
import pytest
from tiny_onnx import write_tiny_net
from tiny_runs import call, refused

from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.run import gates


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds two files of one network, a far wider one, and the first's baseline."""
    folder = tmp_path_factory.mktemp("gate")
    for name, width in (("model", 32), ("copy", 32), ("wide", 512)):
        write_tiny_net(folder / f"{name}.onnx", width=width, size=64)
    measure(folder / "model.onnx", "--save", folder / "baseline.json")
    return folder


def measure(*words: object) -> click.testing.Result:
    return call("bench", *words, "--threads", 1, "--seconds", 0.5)


def scale_baseline(folder, factor):
    """Writes a baseline of which every latency is multiplied."""
    content = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
    for item in content["measured"]:
        item["samples_ms"] = [ms * factor for ms in item["samples_ms"]]
    path = folder / f"times-{factor}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.slow
def test_an_older_file_against_a_wider_one_exits_with_3(folder):
    result = call(
        *("bench", folder / "wide.onnx", "--against", folder / "model.onnx"),
        *("--threads", 1, "--max-regress", "5%", "--seconds", 1),
    )
    assert result.exit_code == 3, result.stderr
    head, row, *notes = result.stdout.splitlines()
    assert head.split() == [
        "network",
        "batch",
        "before",
        "ms",
        "now",
        "ms",
        "ratio",
        "[99%]",
        "verdict",
    ]
    assert row.startswith("wide ")
    assert row.endswith(" regression")
    assert any("before is model" in note for note in notes)


@pytest.mark.slow
def test_equal_files_pass_at_any_generous_limit_and_in_time(folder):
    start = time.perf_counter()
    result = call(
        *("bench", folder / "copy.onnx", "--against", folder / "model.onnx"),
        *("--threads", 1, "--max-regress", "400%", "--save", folder / "both.json"),
    )
    assert result.exit_code == 0, result.stdout
    assert "regression" not in result.stdout
    assert "400%" in result.stdout
    assert [m.name for m in BenchRecord.load(folder / "both.json").measured] == ["model", "copy"]
    assert time.perf_counter() - start < 20


@pytest.mark.slow
def test_a_baseline_far_quicker_exits_with_3_and_one_far_slower_with_0(folder):
    model = folder / "model.onnx"
    slow = measure(model, "--baseline", scale_baseline(folder, 0.1), "--max-regress", "5%")
    assert slow.exit_code == 3
    assert slow.stdout.splitlines()[1].endswith(" regression")
    fast = measure(model, "--baseline", scale_baseline(folder, 10), "--save", folder / "now.json")
    assert fast.exit_code == 0
    assert fast.stdout.splitlines()[1].endswith(" faster")
    assert "drifted since then is part of the ratio" in fast.stdout
    assert [m.name for m in BenchRecord.load(folder / "now.json").measured] == ["model"]


@pytest.mark.slow
def test_too_noisy_is_advice_and_an_error_if_strict(folder):
    content = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
    content["measured"][0]["samples_ms"] = [1.0, 2.0, 3.0]
    path = folder / "short.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    words = (folder / "model.onnx", "--baseline", path)
    for result, code in ((measure(*words), 0), (measure(*words, "--strict"), 1)):
        assert result.exit_code == code
        assert result.stdout.splitlines()[1].endswith(" too noisy to tell")
        assert "allow more --seconds" in result.stdout


def test_another_setting_is_not_comparable_and_says_so_at_once(folder):
    words = ("bench", folder / "model.onnx", "--baseline", folder / "baseline.json")
    start = time.perf_counter()
    sentence = refused(*words, "--batch", "1,2", "--threads", 2, "--seconds", 600)
    assert time.perf_counter() - start < 10
    assert (
        "Not comparable with the baseline: batches was 1 and is 1, 2, threads was 1 and" in sentence
    )
    assert call(*words, "--threads", 2).exit_code == 1
    assert "networks was model and is copy" in refused(
        "bench", folder / "copy.onnx", "--baseline", folder / "baseline.json", "--threads", 1
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max-regress", "5%"], "need --baseline or --against"),
        (["--strict"], "need --baseline or --against"),
        (["--against", "{model}", "--max-regress", "5"], "slowdown '5' is not understood"),
        (["--against", "{model}", "--baseline", "b.json"], "either a baseline or an older"),
        (["--against", "gone.onnx"], "no ONNX file gone.onnx"),
        (["--baseline", "gone.json"], "There is no bench file gone.json"),
        (["--baseline", "{model}"], "model.onnx is not readable as the JSON of a bench"),
        (["{model}", "--against", "{model}"], "compares one artifact with an older one, not 2"),
    ],
)
def test_what_cannot_be_gated_is_one_sentence(folder, words, named):
    model = str(folder / "model.onnx")
    assert named in refused("bench", model, *(word.format(model=model) for word in words))


@pytest.mark.slow
def test_a_run_stands_for_its_pruned_network_against_another(folder):
    for run, pruned in (("before", "model"), ("after", "wide")):
        (folder / run).mkdir()
        for name, source in (("model", pruned), ("original", "wide")):
            (folder / run / f"{name}.onnx").write_bytes((folder / f"{source}.onnx").read_bytes())
    result = gates.gate(folder / "after", against=folder / "before", threads=1, seconds=1.0)
    assert [item.name for item in result.record.measured] == ["before", "after"]
    assert result.is_regression
    assert not (folder / "after" / "bench.json").exists()
