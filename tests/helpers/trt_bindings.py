"""The names that TensorRT's real Python bindings have, release by release, without TensorRT.

The binding wheels on PyPI are a megabyte each and need a dozen C symbols of the libraries proper;
with those symbols in an empty library they import, and tell every class and signature they hold.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kept import kept
from needs import need

DISTRIBUTION = "tensorrt-cu12-bindings"
CLASSES = "classes.json"

#: One release of each line that is supported: JetPack 6, JetPack 7 twice, and TensorRT 11.
VERSIONS = ("10.3.0", "10.13.3.9.post1", "10.16.1.11", "11.0.0.114", "11.4.0.106")

#: What pip says when it has reached no index at all.
_UNREACHED = re.compile(r"from versions: none|Failed to establish|Max retries|timed out|ProxyError")


class UnavailableError(Exception):
    """A binding cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Binding:
    """What one release holds.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        version: The release.
        classes: Class -> attribute -> its signatures, several if it is overloaded; none if it is
            no function. The module itself is the class "TensorRT".
    """

    flavour: str
    version: str
    classes: dict[str, dict[str, list[str]]]

    def __contains__(self, name: str) -> bool:
        """Tells whether the release has "Class.attribute"."""
        cls, _, attribute = name.partition(".")
        return attribute in self.classes.get(cls, {})

    def signatures(self, name: str) -> list[str]:
        """Returns the signatures of "Class.method"; of a class of the module, its constructor's."""
        cls, _, attribute = name.partition(".")
        if cls == "TensorRT":
            cls, attribute = attribute, "__init__"
        return self.classes[cls][attribute]


def read_binding(version: str) -> Binding:
    """Returns what one release of `tensorrt` holds; downloaded once.

    Raises:
        UnavailableError: No index was reached, or there is no wheel for this Python.
    """
    need("gcc")
    need("binutils")
    folder = kept("trt-bindings", f"{version} {DUMP}", partial(_examine, version))
    classes = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
    return Binding("tensorrt", version, classes)


def read_installed(flavour: str, module: str) -> Binding:
    """Returns what an installed module holds.

    Raises:
        UnavailableError: It does not import.
    """
    done = _run(sys.executable, "-c", DUMP, module)
    if done.returncode:
        raise UnavailableError(f"{module} does not import: {_last_line(done.stderr)}")
    found = json.loads(done.stdout)
    return Binding(flavour, found["version"], found["classes"])


def _examine(version: str, kept_folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="trt-bindings-") as name:
        folder = Path(name)
        with zipfile.ZipFile(_download(version, folder / "wheels")) as wheel:
            wheel.extractall(folder)
        libraries = _build_stubs(folder / "tensorrt_bindings" / "tensorrt.so", folder / "stubs")
        done = _run(
            *(sys.executable, "-c", DUMP, "tensorrt_bindings"),
            env={**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(libraries)},
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["version"] == version
    (kept_folder / CLASSES).write_text(json.dumps(told["classes"]), encoding="utf-8")


def _download(version: str, folder: Path) -> Path:
    """Returns the wheel for this Python."""
    done = _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"),
        *("--timeout", "20", "--only-binary", ":all:", "--dest", str(folder)),
        f"{DISTRIBUTION}=={version}",
    )
    if done.returncode == 0:
        (wheel,) = folder.glob("*.whl")
        return wheel
    if _UNREACHED.search(done.stderr):
        raise UnavailableError(f"PyPI cannot be reached: {_last_line(done.stderr)}")
    if "from versions:" in done.stderr:
        raise UnavailableError(f"{DISTRIBUTION} {version} has no wheel for this Python, or is gone")
    raise AssertionError(done.stderr)


def _build_stubs(extension: Path, folder: Path) -> Path:
    """Returns a folder with libraries that export what the extension needs of TensorRT's."""
    folder.mkdir(exist_ok=True)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}() {{ return 0; }}\n" for name in _needed(extension)))
    listed = _output("readelf", "-d", str(extension))
    for library in re.findall(r"\[(libnv[^]]+)\]", listed):
        flags = ("-shared", "-fPIC", "-w", f"-Wl,-soname,{library}")
        _output("gcc", *flags, "-o", str(folder / library), str(source))
    return folder


def _needed(extension: Path) -> list[str]:
    symbols = re.findall(r"\bU (\w+)$", _output("nm", "-D", str(extension)), flags=re.MULTILINE)
    theirs = re.compile(r"[a-z]\w*(_INTERNAL|PluginRegistry|NvOnnx\w+|NvInfer\w+)")
    return [name for name in symbols if theirs.fullmatch(name)]


def _output(*command: str) -> str:
    done = _run(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=240
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


#: Prints every public class of a module, its attributes and their signatures.
DUMP = """
import ctypes
import importlib
import json
import re
import sys


def attributes(cls):
    found = {name: signatures(name, getattr(cls, name, None)) for name in dir(cls)}
    return {**found, "__buffer__": []} if has_buffer(cls) else found


def has_buffer(cls):
    # Until Python 3.12 a class that gives its memory has no attribute that says so.
    try:
        empty = cls.__new__(cls)
    except TypeError:
        return False
    return bool(ctypes.pythonapi.PyObject_CheckBuffer(ctypes.py_object(empty)))


def signatures(name, value):
    text = getattr(value, "__doc__", None)
    lines = text.splitlines() if callable(value) and isinstance(text, str) else []
    pattern = re.compile(rf"(?:\\d+\\. )?({re.escape(name)}\\(self: .*)")
    return [match[1] for line in lines if (match := pattern.match(line.strip()))]


module = importlib.import_module(sys.argv[1])
public = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
classes = {name: attributes(value) for name, value in public.items() if isinstance(value, type)}
classes["TensorRT"] = {name: [] for name in [*public, "__version__"]}
json.dump({"version": module.__version__, "classes": classes}, sys.stdout)
"""
