"""What this machine can do, and what to install for the rest; torch-free, and nothing raises."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dmcp_deploy import __version__
from dmcp_deploy.extras import is_installed, missing_library
from dmcp_deploy.machine.board import Board, read_board, read_power_mode
from dmcp_deploy.machine.child import ask_python
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.machine.processor import adds_int8_in_16_bits
from dmcp_deploy.runtimes.trt_flavours import FLAVOURS, Flavour
from dmcp_deploy.units import format_bytes

OK, MISSING, BROKEN, NOTE = "ok", "missing", "broken", "note"

MACHINE, GPU, TENSORRT, CPU, LIBRARIES, ABILITIES = (
    *("machine", "NVIDIA GPU", "TensorRT", "CPU runtimes", "search and export"),
    "what it can do",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        topic: Where it belongs.
        name: What was looked for.
        state: "ok", "missing", "broken", or "note" for what is neither good nor bad.
        detail: The version, or what was found instead.
        remedy: What to do and what for; "" where there is nothing to do.
    """

    topic: str
    name: str
    state: str
    detail: str
    remedy: str = ""


def examine(root: Path = Path("/"), timeout_s: float = 60.0) -> tuple[Finding, ...]:
    """Returns what this machine has and what it can do.

    Libraries are imported in processes of their own, so that one that prints, hangs or crashes
    is a finding like any other; torch is not imported at all.

    Args:
        root: The folder in which etc/ and proc/ lie, for the processor and what a Jetson writes.
        timeout_s: The longest time for each library.
    """
    board = read_board(root)
    findings = [
        *_machine(board, timeout_s),
        *_gpu(timeout_s),
        *(_flavour(flavour, board, timeout_s) for flavour in FLAVOURS.values()),
        *(_cpu_runtime(name, timeout_s) for name in _CPU_RUNTIMES),
        *_int8(root),
        *map(_library, _LIBRARIES),
        *_torch_cuda(),
    ]
    return (*findings, *_abilities({(f.topic, f.name): f for f in findings}))


def format_findings(findings: Iterable[Finding]) -> str:
    """Returns the findings as text, a line each, remedies below."""
    lines: list[str] = []
    topic = None
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines += ["", topic] if lines else [topic]
        mark = _ANSWERS.get(finding.state) if topic == ABILITIES else finding.state
        lines.append(f"  {mark:<9}{finding.name:<22}{finding.detail}".rstrip())
        if finding.remedy:
            lines.append(f"{'':<11}-> {finding.remedy}")
    return "\n".join(lines)


def to_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Returns the findings as JSON values."""
    return {
        "kind": "doctor",
        "tool_version": __version__,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


_ANSWERS = {OK: "yes", MISSING: "no"}


def _machine(board: Board | None, timeout_s: float) -> Iterator[Finding]:
    known = read_environment()
    cpu = f"{known['cpu'] or 'unknown processor'}, {known['cores'] or '?'} cores"
    yield Finding(MACHINE, "system", OK, known["platform"])
    yield Finding(MACHINE, "processor", OK, cpu)
    yield Finding(MACHINE, "Python", OK, f"{known['python']} ({sys.executable})")
    if board is None:
        yield Finding(MACHINE, "Jetson", NOTE, "this is none")
    else:
        yield _board(board)
        yield _power_mode(timeout_s)
    if known["governor"] not in (None, "performance"):
        remedy = "clocks that follow the load make latencies scatter; performance keeps them"
        yield Finding(MACHINE, "CPU governor", NOTE, known["governor"], remedy)


def _board(board: Board) -> Finding:
    release = f"Jetson Linux {board.l4t}" if board.l4t else "release of Jetson Linux not told"
    if board.jetpack is None:
        return Finding(MACHINE, "Jetson", OK, f"{board.model}, {release}")
    pack = board.jetpack
    detail = f"{board.model}, {release}: JetPack {pack.name}, which has TensorRT {pack.tensorrt}"
    if pack.tensorrt.startswith(("7", "8")):
        remedy = "TensorRT 10.3 is the first that is supported: install JetPack 6.1 or newer"
        return Finding(MACHINE, "Jetson", BROKEN, detail, remedy)
    return Finding(MACHINE, "Jetson", OK, detail)


def _power_mode(timeout_s: float) -> Finding:
    mode = read_power_mode(timeout_s)
    if mode is None:
        return Finding(MACHINE, "power mode", NOTE, "nvpmodel does not tell it")
    remedy = "before measuring: sudo jetson_clocks"
    if not mode.startswith("MAXN"):
        remedy = (
            "for the board's full speed, before measuring: sudo nvpmodel -m with the number of"
            " MAXN in /etc/nvpmodel.conf, then sudo jetson_clocks"
        )
    return Finding(MACHINE, "power mode", NOTE, mode, remedy)


#: Import name of a runtime for the CPU -> Python that tells what it offers.
_CPU_RUNTIMES = {
    "onnxruntime": "import onnxruntime as m\nsay(m.__version__, *m.get_available_providers())",
    "openvino": "import openvino as m\nsay(m.__version__, *m.Core().available_devices)",
}


def _cpu_runtime(name: str, timeout_s: float) -> Finding:
    if not is_installed(name):
        return Finding(CPU, name, MISSING, "not installed", _install(name, "to run ONNX files"))
    answer = ask_python(_CPU_RUNTIMES[name], timeout_s)
    if "problem" in answer:
        remedy = f"pip install --force-reinstall {name}"
        return Finding(CPU, name, BROKEN, answer["problem"], remedy)
    version, *offers = answer["values"]
    return Finding(CPU, name, OK, f"{version.partition('-')[0]} ({', '.join(offers)})")


def _int8(root: Path) -> Iterator[Finding]:
    if adds_int8_in_16_bits(root):
        remedy = (
            'run files that were quantised with the preset "cpu": others can give wrong answers'
            " here, in ONNX Runtime and in OpenVINO"
        )
        yield Finding(CPU, "INT8", NOTE, "added up in 16 bits: AVX2 without VNNI", remedy)


def _flavour(flavour: Flavour, board: Board | None, timeout_s: float) -> Finding:
    if not is_installed(flavour.module):
        remedy = flavour.install
        if board is not None and flavour.name == "tensorrt":
            remedy = (
                "sudo apt install nvidia-jetpack; a virtual environment sees it if it was made"
                " with --system-site-packages"
            )
        return Finding(TENSORRT, flavour.module, MISSING, "not installed", remedy)
    answer = ask_python(
        "from dmcp_deploy.runtimes.trt_flavours import load_flavour\n"
        f"say(load_flavour({flavour.name!r}).version)",
        timeout_s,
    )
    if "problem" in answer:
        return Finding(TENSORRT, flavour.module, BROKEN, answer["problem"])
    return Finding(TENSORRT, flavour.module, OK, answer["values"][0])


_PROBE_DEVICES = """
import dataclasses
from dmcp_deploy.machine.cuda.report import probe_devices
say(dataclasses.asdict(probe_devices()))
"""


def _gpu(timeout_s: float) -> Iterator[Finding]:
    answer = ask_python(_PROBE_DEVICES, timeout_s)
    report = answer.get("values", [{}])[0]
    driver = report.get("driver")
    if driver is None:
        problem = answer.get("problem") or report["problem"]
        yield Finding(GPU, "driver", MISSING, problem)
    else:
        cuda = ".".join(map(str, driver["cuda_version"]))
        yield Finding(GPU, "driver", OK, f"{driver['version'] or 'unknown'}, for CUDA {cuda}")
        yield from map(_device, driver["devices"])
    yield from map(_binding, report.get("bindings", []))


#: What to do for a binding, and what it is for.
_BINDINGS = {
    "cuda-python": "pip install cuda-python: to run engines, and CUDA graphs",
    "pycuda": "pip install pycuda: to run engines, instead of cuda-python; it is compiled against"
    " the CUDA toolkit",
}


def _device(device: Mapping[str, Any]) -> Finding:
    capability = ".".join(map(str, device["compute_capability"]))
    memory = format_bytes(device["memory_bytes"])
    detail = f"{device['name']}, compute capability {capability}, {memory}"
    return Finding(GPU, f"device {device['ordinal']}", OK, detail)


def _binding(binding: Mapping[str, Any]) -> Finding:
    name, version, problem = binding["name"], binding["version"], binding["problem"]
    if version is None:
        return Finding(GPU, name, MISSING, "not installed", _BINDINGS[name])
    if problem:
        return Finding(GPU, name, BROKEN, f"{version}: {problem}")
    return Finding(GPU, name, OK, version)


#: Import name -> what it is for.
_LIBRARIES = {
    "torch": "to search, slice and train",
    "torchvision": "for its networks and data sets",
    "safetensors": "to store weights",
    "timm": "for timm's networks",
    "onnx": "to read ONNX files",
    "onnxscript": "to export",
    "onnxsim": "to export",
}


def _library(name: str) -> Finding:
    try:
        return Finding(LIBRARIES, name, OK, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(LIBRARIES, name, MISSING, "not installed", _install(name, _LIBRARIES[name]))


def _torch_cuda() -> Iterator[Finding]:
    """Yields what torch was built for, as its own file says: importing it takes seconds."""
    try:
        path = Path(str(metadata.distribution("torch").locate_file("torch/version.py")))
        text = path.read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return
    if version := re.search(r"^cuda\b.*= '([\d.]+)'", text, re.MULTILINE):
        yield Finding(LIBRARIES, "CUDA in torch", OK, version[1])
    else:
        remedy = "install torch as pytorch.org says for CUDA: to search and train on a GPU"
        yield Finding(LIBRARIES, "CUDA in torch", MISSING, "built without it", remedy)


def _abilities(known: Mapping[tuple[str, str], Finding]) -> Iterator[Finding]:
    for ability, wanted in _NEEDS.items():
        lacking = [
            " or ".join(name for _, name in ways)
            for ways in wanted
            if not any(key in known and known[key].state == OK for key in ways)
        ]
        state, detail = (MISSING, f"lacks {', '.join(lacking)}") if lacking else (OK, "")
        yield Finding(ABILITIES, ability, state, detail)


_TORCH = [[(LIBRARIES, "torch")], [(LIBRARIES, "torchvision")], [(LIBRARIES, "safetensors")]]
_ONNX, _ORT = [(LIBRARIES, "onnx")], [(CPU, "onnxruntime")]
_EXPORTERS = [[(LIBRARIES, "onnxscript")], [(LIBRARIES, "onnxsim")]]
_DRIVER, _CUDA = [(GPU, "driver")], [(GPU, "cuda-python"), (GPU, "pycuda")]
_TRT, _RTX = (TENSORRT, "tensorrt"), (TENSORRT, "tensorrt_rtx")

#: What can be done -> what it needs, each met by any of several findings.
_NEEDS: dict[str, list[list[tuple[str, str]]]] = {
    "search and train": _TORCH,
    "the same on a GPU": [*_TORCH, [(LIBRARIES, "CUDA in torch")], _DRIVER],
    "export to ONNX": [*_TORCH, _ONNX, *_EXPORTERS, _ORT],
    "build with TensorRT": [[_TRT], _DRIVER, _ONNX],
    "build with RTX": [[_RTX], _ONNX],
    "run engines": [[_TRT, _RTX], _DRIVER, _CUDA],
    "run in ONNX Runtime": [_ORT, _ONNX],
    "run in OpenVINO": [[(CPU, "openvino")]],
}


def _install(name: str, purpose: str) -> str:
    problem = missing_library(name)
    command = str(problem).partition("run ")[2].rstrip(".") if problem else f"pip install {name}"
    return f"{command}: {purpose}"
