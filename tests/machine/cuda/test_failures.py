"""What a user reads where a GPU cannot be used, and what `doctor` is told there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from host_cuda import broken_driver, build_driver, run_python

pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

NO_BINDING = ("cuda", "cuda.bindings", "cuda.bindings.driver", "pycuda")

#: Case -> the driver's settings, open_device's arguments, the sentence.
CASES: dict[str, tuple[dict[str, str], dict[str, object], str]] = {
    "no device": (
        {"DMCP_CUDA_DEVICES": "0"},
        {},
        r"No CUDA device is detected: see that nvidia-smi lists one, and start a container with "
        r"--gpus all, or on a Jetson with --runtime nvidia\.",
    ),
    "hidden devices": (
        {"DMCP_CUDA_DEVICES": "0", "CUDA_VISIBLE_DEVICES": ""},
        {},
        r"No CUDA device is detected: .* lists one \(CUDA_VISIBLE_DEVICES is ''\), and .*",
    ),
    "ordinal beyond": (
        {"DMCP_CUDA_DEVICES": "2"},
        {"ordinal": 2},
        r"There is no CUDA device 2: this machine has 2, numbered from 0 "
        r"\(Host memory 0, Host memory 1\)\.",
    ),
    "ordinal below": ({}, {"ordinal": -1}, r"There is no CUDA device -1: this machine has 1, .*"),
    "stub": (
        {"DMCP_CUDA_FAIL": "cuInit=34"},
        {},
        r"The libcuda\.so\.1 .* is the toolkit's stub .*",
    ),
    "mismatch": ({"DMCP_CUDA_FAIL": "cuInit=803"}, {}, r"NVIDIA's libcuda\.so\.1 and .*: reboot.*"),
    "unknown": (
        {"DMCP_CUDA_FAIL": "cuInit=999"},
        {},
        r"NVIDIA's driver does not start, CUDA_ERROR_UNKNOWN \(999, unknown error\): see .*",
    ),
    "nameless": (
        {"DMCP_CUDA_FAIL": "cuInit=4711"},
        {},
        r"NVIDIA's driver does not start, error \(4711, unrecognized error code\): see .*",
    ),
    "old driver": (
        {"DMCP_CUDA_VERSION": "11080"},
        {"binding": "cuda-python"},
        r"The NVIDIA driver is too old: cuda-python [\d.]+ is made for CUDA 1\d\.\d+, and the "
        r"driver supports CUDA 11\.8: update the driver, or pip install 'cuda-python==11\.\*'\.",
    ),
    "wrong name": (
        {},
        {"binding": "pycud"},
        r"CUDA binding 'pycud' is unknown: choose one of auto, cuda-python, pycuda; did you mean "
        r"pycuda.*\?",
    ),
    "pycuda absent": (
        {},
        {"binding": "pycuda"},
        r"pycuda is not installed: pip install pycuda\.",
    ),
}

TELL_ALL = """
import json, sys
from host_cuda import setting
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import open_device

def sentence(settings, arguments):
    with setting(**settings):
        try:
            open_device(**arguments)
        except DmcpError as err:
            return str(err)

print(json.dumps({name: sentence(*case) for name, case in json.loads(CASES).items()}))
"""

REPORT = """
import dataclasses, json
from dmcp_deploy.machine.cuda.report import probe_devices

report = probe_devices()
print(json.dumps({**dataclasses.asdict(report), "devices": len(report.devices)}))
"""

OPEN = """
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import open_device

try:
    open_device({arguments})
except DmcpError as err:
    print(err)
"""


@pytest.fixture(scope="module")
def sentences() -> dict[str, str | None]:
    cases = json.dumps({name: case[:2] for name, case in CASES.items()})
    code = f"CASES = {cases!r}\n{TELL_ALL}"
    return json.loads(run_python(code, build_driver(), refuse=["pycuda"]))


@pytest.mark.parametrize("case", CASES)
def test_each_failure_is_one_sentence(sentences, case):
    told = sentences[case]
    assert told is not None, "it opens"
    assert re.fullmatch(CASES[case][2], told), told


def test_a_missing_driver_is_one_sentence(tmp_path: Path):
    told = run_python(OPEN.format(arguments=""), broken_driver(tmp_path))
    assert re.fullmatch(r"There is no NVIDIA driver here \(.*\): install one, .*\.\n", told), told


def test_a_library_without_calls_is_a_stub(tmp_path: Path):
    build_driver()  # skips where there is no gcc
    stub = tmp_path / "libcuda.so.1"
    command = ["gcc", "-shared", "-x", "c", "/dev/null", "-o", str(stub)]
    subprocess.run(command, check=True)
    told = run_python(OPEN.format(arguments=""), tmp_path)
    assert told.startswith("The libcuda.so.1 that is found is the toolkit's stub"), told


def test_where_nothing_is_installed_the_modules_import_and_say_so(tmp_path: Path):
    modules = "device binding driver report binding_pycuda binding_cuda_python"
    imports = "\n".join(f"import dmcp_deploy.machine.cuda.{name}" for name in modules.split())
    opened = OPEN.format(arguments="")
    code = f"{imports}\nimport sys\nassert 'torch' not in sys.modules\n{opened}{REPORT}"
    refused = ["torch", *NO_BINDING]
    told, report = run_python(code, build_driver(), refuse=refused).splitlines()
    assert told == (
        "Neither cuda-python nor pycuda is installed, and one is needed to run on a GPU: "
        "pip install cuda-python or pip install pycuda."
    )
    assert json.loads(report)["problem"] == told
    assert json.loads(report)["devices"] == 1


def test_a_library_that_is_broken_is_one_sentence(tmp_path: Path):
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("")
    told = run_python(OPEN.format(arguments="'pycuda'"), build_driver(), path=[tmp_path])
    assert re.fullmatch(
        r"pycuda is installed and cannot be imported \(.*driver.*\): pip .*\n", told
    )


def test_a_machine_that_has_all_is_reported(tmp_path: Path):
    report = json.loads(run_python(REPORT, build_driver(), refuse=["pycuda"]))
    assert report["problem"] is None
    python, other = report["bindings"]
    assert (python["name"], python["problem"]) == ("cuda-python", None)
    assert re.fullmatch(r"\d+\.\d+.*", python["version"])
    assert other == {
        "name": "pycuda",
        "version": None,
        "problem": "pycuda is not installed: pip install pycuda.",
    }
    assert report["driver"]["cuda_version"] == [13, 0]
    assert report["driver"]["devices"] == [
        {
            "ordinal": 0,
            "name": "Host memory 0",
            "compute_capability": [8, 7],
            "memory_bytes": 1 << 30,
        }
    ]


def test_a_machine_without_a_driver_is_reported(tmp_path: Path):
    report = json.loads(run_python(REPORT, broken_driver(tmp_path)))
    assert report["problem"].startswith("There is no NVIDIA driver here")
    assert (report["driver"], report["devices"]) == (None, 0)
    assert report["bindings"][0]["version"] is not None


def test_a_driver_too_old_for_all_that_is_installed_is_reported():
    code = f"import os\nos.environ['DMCP_CUDA_VERSION'] = '11080'\n{REPORT}"
    report = json.loads(run_python(code, build_driver(), refuse=["pycuda"]))
    assert report["problem"] == report["bindings"][0]["problem"]
    assert report["problem"].startswith("The NVIDIA driver is too old: cuda-python ")
    assert report["devices"] == 1
