from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import dmcp_deploy
from dmcp_deploy.runtimes.doctor import Finding, format_findings, to_json

ROOT = Path(dmcp_deploy.__file__).parent.parent

EXAMINE = """
import json, sys
from pathlib import Path
from dmcp_deploy.runtimes.doctor import examine, format_findings, to_json
findings = examine(Path(sys.argv[1]), float(sys.argv[2]))
format_findings(findings)
print(json.dumps(to_json(findings)))
"""

Named = dict[tuple[str, str], Finding]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Named:
    """This machine's findings; importing torch, in any process that is started, is an error."""
    folder = tmp_path_factory.mktemp("guard")
    (folder / "sitecustomize.py").write_text(TORCH_LEAVES_A_SIGN)
    named = examine_with(Path(sys.executable), Path("/"), folder)
    assert not (folder / "torch was imported").exists()
    return named


TORCH_LEAVES_A_SIGN = """
import sys
from pathlib import Path

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            Path(__file__).with_name("torch was imported").touch()

sys.meta_path.insert(0, Guard())
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has no library at all."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def examine_with(python: Path, root: Path, folder: Path, timeout_s: float = 60) -> Named:
    """Returns the findings of an interpreter that finds its modules and programs in `folder`."""
    done = subprocess.run(
        [str(python), "-c", EXAMINE, str(root), str(timeout_s)],
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    findings = [Finding(**found) for found in json.loads(done.stdout)["findings"]]
    named = {(finding.topic, finding.name): finding for finding in findings}
    assert len(named) == len(findings)
    return named


def test_this_machine_has_what_its_packages_say(here):
    for library in ("torch", "onnx", "onnxscript"):
        assert here["search and export", library].detail == metadata.version(library)
    runtime = here["CPU runtimes", "onnxruntime"]
    assert runtime.state == "ok"
    assert runtime.detail.startswith(metadata.version("onnxruntime"))
    assert "CPUExecutionProvider" in runtime.detail
    assert here["what it can do", "search and train"].state == "ok"
    assert here["what it can do", "run in ONNX Runtime"].state == "ok"


def test_a_gpu_that_is_not_there_is_told_with_what_it_prevents(here):
    if here["NVIDIA GPU", "driver"].state == "ok":
        assert ("NVIDIA GPU", "device 0") in here
        return
    assert "libcuda.so.1" in here["NVIDIA GPU", "driver"].detail
    engines = here["what it can do", "run engines"]
    assert engines.state == "missing"
    assert "driver" in engines.detail
    assert here["what it can do", "build with RTX"].state == (
        "ok" if here["TensorRT", "tensorrt_rtx"].state == "ok" else "missing"
    )


def test_every_finding_is_a_line_and_every_remedy_another(here):
    findings = list(here.values())
    lines = format_findings(findings).splitlines()
    topics = list(dict.fromkeys(finding.topic for finding in findings))
    remedies = [finding.remedy for finding in findings if finding.remedy]
    assert [line for line in lines if line and not line.startswith(" ")] == topics
    assert [line.strip()[3:] for line in lines if line.strip().startswith("-> ")] == remedies
    assert len(lines) == len(findings) + len(remedies) + 2 * len(topics) - 1
    assert to_json(findings)["findings"][0]["topic"] == topics[0]


def test_a_bare_machine_is_told_what_to_install(bare_python, tmp_path):
    named = examine_with(bare_python, tmp_path, tmp_path)
    for topic, name in named:
        if topic in ("TensorRT", "CPU runtimes", "search and export", "what it can do"):
            assert named[topic, name].state == "missing"
    assert {name for topic, name in named if topic == "TensorRT"} == {"tensorrt", "tensorrt_rtx"}
    assert "JetPack" in named["TensorRT", "tensorrt"].remedy
    assert named["CPU runtimes", "onnxruntime"].remedy.startswith("pip install 'dmcp-deploy[")
    assert named["search and export", "torch"].remedy == (
        "pip install 'dmcp-deploy[search]': to search, slice and train"
    )
    assert named["NVIDIA GPU", "pycuda"].remedy.startswith("pip install pycuda")
    lacking = named["what it can do", "run engines"].detail
    assert "tensorrt or tensorrt_rtx" in lacking
    assert "cuda-python or pycuda" in lacking


def test_a_processor_that_adds_int8_up_in_16_bits_is_told(bare_python, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu avx2 fma\n")
    int8 = examine_with(bare_python, tmp_path, tmp_path)["CPU runtimes", "INT8"]
    assert (int8.state, int8.detail) == ("note", "added up in 16 bits: AVX2 without VNNI")
    assert 'preset "cpu"' in int8.remedy


def test_a_board_and_what_is_broken_on_it_are_told(bare_python, tmp_path):
    """Installations as they fail on real machines: each is a finding, none ends the command."""
    for path, text in BROKEN_BOARD.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "nvpmodel").chmod(0o755)
    named = examine_with(bare_python, tmp_path, tmp_path, timeout_s=5)

    board = named["machine", "Jetson"]
    assert board.state == "ok"
    assert board.detail == (
        "NVIDIA Jetson Orin NX, Jetson Linux 36.4.3: JetPack 6.1 or 6.2, which has TensorRT 10.3"
    )
    assert named["machine", "power mode"].detail == "15W"
    assert "nvpmodel -m" in named["machine", "power mode"].remedy
    trt = named["TensorRT", "tensorrt"]
    assert trt.state == "broken"
    assert "libnvdla_compiler.so: cannot open shared object file" in trt.detail
    assert named["TensorRT", "tensorrt_rtx"].state == "broken"
    assert "0.9" in named["TensorRT", "tensorrt_rtx"].detail
    assert named["CPU runtimes", "onnxruntime"].state == "broken"
    assert "Segmentation fault" in named["CPU runtimes", "onnxruntime"].detail
    assert named["CPU runtimes", "openvino"].detail == "it was not done after 5 s"


BROKEN_BOARD = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin NX\0",
    "nvpmodel": "#!/bin/sh\nprintf 'NV Power Mode: 15W\\n2\\n'\n",
    "tensorrt/__init__.py": "import tensorrt.tensorrt",
    "tensorrt/tensorrt.py": "raise ImportError('libnvdla_compiler.so: cannot open shared object"
    " file: No such file or directory')",
    "tensorrt_rtx.py": "print('noise')\n__version__ = '0.9.0'",
    "onnxruntime.py": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    "openvino.py": "import time\ntime.sleep(100)",
}


def test_a_jetpack_that_is_too_old_is_told_and_where_tensorrt_comes_from(bare_python, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R35 (release), REVISION: 4.1, GCID: 1\n")
    named = examine_with(bare_python, tmp_path, tmp_path)
    assert named["machine", "Jetson"].state == "broken"
    assert "JetPack 6.1 or newer" in named["machine", "Jetson"].remedy
    assert "--system-site-packages" in named["TensorRT", "tensorrt"].remedy
