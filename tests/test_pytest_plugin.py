"""The fixture `latency_gate`, in pytest processes of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tiny_onnx import write_tiny_net

import dmcp_deploy
from dmcp_deploy.run import api

pytest_plugins = ["pytester"]

ROOT = Path(dmcp_deploy.__file__).parents[1]
PLUGIN = "dmcp_deploy.pytest_plugin"


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    for name, width in (("model", 32), ("wide", 512)):
        write_tiny_net(folder / f"{name}.onnx", width=width, size=64)
    api.bench(folder / "model.onnx", threads=1, seconds=0.3, save=folder / "baseline.json")
    return folder


@pytest.fixture
def project(pytester, nets, monkeypatch):
    """A project with a rootdir, the networks in `nets/`, and this plugin alone."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\n")
    (pytester.path / "nets").symlink_to(nets)
    return pytester


def gate_test(name: str, arguments: str) -> str:
    return f"def test_{name}(latency_gate):\n    latency_gate({arguments})\n"


def run(project, *words: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", PLUGIN, *words, timeout=100)


def change_baseline(project, name, change):
    content = json.loads((project.path / "nets" / "baseline.json").read_text(encoding="utf-8"))
    change(content)
    (project.path / name).write_text(json.dumps(content), encoding="utf-8")


def times_a_tenth(content):
    measured = content["measured"][0]
    measured["samples_ms"] = [ms / 10 for ms in measured["samples_ms"]]


def shown(result, name: str) -> str:
    """Returns what pytest shows of a failed test."""
    text = re.split(r"^_+ (test_\w+) _+$|^=+ ", result.stdout.str(), flags=re.MULTILINE)
    return text[text.index(f"test_{name}") + 1]


@pytest.mark.slow
def test_a_gate_fails_warns_or_passes_and_junit_has_the_figures(project):
    change_baseline(project, "quick.json", times_a_tenth)
    change_baseline(project, "short.json", lambda c: c["measured"][0].update(samples_ms=[1.0] * 3))
    change_baseline(project, "other.json", lambda c: c["environment"].update(cpu="a toaster"))
    tests = [
        gate_test("wider", "'nets/wide.onnx', against='nets/model.onnx', seconds=1.0"),
        gate_test("stored", "'nets/model.onnx', baseline='quick.json', seconds=0.3"),
        gate_test("noisy", "'nets/model.onnx', baseline='short.json', seconds=0.3"),
        gate_test("strict", "'nets/model.onnx', baseline='short.json', seconds=0.3, strict=True"),
        gate_test("elsewhere", "'nets/model.onnx', baseline='other.json', seconds=600"),
        "def test_same(latency_gate):\n"
        "    it = latency_gate('nets/model.onnx', against='nets/model.onnx', max_regress='900%')\n"
        "    assert it.rows[0].decision.verdict == 'within the limit'\n",
    ]
    # In a folder below: paths start at the rootdir.
    (project.mkpydir("below") / "test_it.py").write_text("\n".join(tests), encoding="utf-8")
    result = run(project, "--junitxml", "out.xml", "below")
    result.assert_outcomes(passed=2, failed=4, warnings=1)
    assert "Traceback" not in result.stdout.str()
    assert "pytest_plugin.py" not in "".join(shown(result, name) for name in ("wider", "stored"))

    table = shown(result, "wider").strip().splitlines()
    assert table[0] == "latency gate"
    assert table[1].startswith("network ")
    assert table[2].startswith("wide ")
    assert table[2].endswith(" regression")
    assert "drifted since then is part of the ratio" in shown(result, "stored")
    assert " too noisy to tell\n" in shown(result, "strict")
    result.stdout.fnmatch_lines(["*LatencyWarning: latency gate*", "*too noisy to tell*"])
    assert shown(result, "elsewhere").startswith("\nNot comparable with the baseline: cpu was a t")

    found = properties(project.path / "out.xml")
    assert float(found["wider"]["latency_ratio"]) > 1.5
    assert found["wider"]["latency_interval"].startswith("[")
    verdicts = {name: figures["latency_verdict"] for name, figures in found.items()}
    assert verdicts == {
        **dict.fromkeys(("wider", "stored"), "regression"),
        **dict.fromkeys(("noisy", "strict"), "too noisy to tell"),
        "same": "within the limit",
    }


def properties(path: Path) -> dict[str, dict[str, str]]:
    """Returns test -> property -> value of a JUnit report."""
    return {
        case.get("name").removeprefix("test_"): {
            item.get("name"): item.get("value") for item in case.iter("property")
        }
        for case in ET.parse(path).iter("testcase")
        if case.find("properties") is not None
    }


def test_a_baseline_from_elsewhere_is_skipped_if_asked_for_and_mistakes_are_one_sentence(project):
    change_baseline(project, "other.json", lambda c: c["environment"].update(cpu="a toaster"))
    sentences = {
        "neither": ("'nets/model.onnx'", "either a baseline or an older artifact"),
        "gone": ("'gone.onnx', against='nets/model.onnx'", "There is no ONNX file "),
        "no_record": ("'nets/model.onnx', baseline='nets/model.onnx'", "is not readable as the"),
        "limit": ("'nets/model.onnx', against='nets/model.onnx', max_regress='5'", "such as 5%."),
    }
    tests = [gate_test(name, arguments) for name, (arguments, _) in sentences.items()]
    tests.append(gate_test("other", "'nets/model.onnx', baseline='other.json', seconds=600"))
    project.makepyfile("\n".join(tests))
    result = run(project, "-rs", "--latency-skip-incomparable")
    result.assert_outcomes(failed=len(sentences), skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*Not comparable with the baseline: cpu was a toaster *"])
    for name, (_, sentence) in sentences.items():
        assert sentence in shown(result, name)
        # What the sentence was made from is shown above it, and nothing else.
        assert shown(result, name).count(sentence) == 1
        assert "During handling" not in shown(result, name)


@pytest.mark.slow
def test_workers_are_warned_of(project):
    project.makepyfile(
        gate_test("same", "'nets/model.onnx', against='nets/model.onnx', max_regress='900%'")
    )
    result = run(project, "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*LatencyWarning: 2 pytest-xdist workers disturb*"])


HOLD = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from dmcp_deploy.pytest_plugin import _only_one
with _only_one():
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_gates_of_two_processes_run_one_at_a_time(tmp_path):
    start = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(start, **pipes) as first,
        subprocess.Popen(start, **pipes) as second,
    ):
        inside: list[int] = []

        def wait_for(number: int, process: subprocess.Popen[str]) -> None:
            process.stdout.readline()
            inside.append(number)

        threads = [
            threading.Thread(target=wait_for, args=item) for item in enumerate((first, second))
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while not inside and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.5)
        assert len(inside) == 1
        (first, second)[inside[0]].communicate("\n")
        for thread in threads:
            thread.join(60)
        assert sorted(inside) == [0, 1]
        (first, second)[inside[1]].communicate("\n")
    (lock,) = tmp_path.iterdir()
    assert lock.stat().st_mode & 0o777 == 0o644


def test_pytest_finds_the_plugin_by_its_entry_point_and_loads_nothing_heavy(
    pytester, monkeypatch, tmp_path
):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, section = text.partition("[project.entry-points.pytest11]\n")
    name, _, target = section.splitlines()[0].partition(" = ")
    assert target == f'"{PLUGIN}"'
    info = tmp_path / "some_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{name} = {PLUGIN}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(
        """
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.getoption("--latency-skip-incomparable") is False
            mine = {name for name in sys.modules if name.startswith("dmcp_deploy")}
            assert mine == {"dmcp_deploy", "dmcp_deploy.pytest_plugin"}
            assert not {"torch", "numpy", "onnx", "onnxruntime", "click"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess(timeout=100).assert_outcomes(passed=1)
