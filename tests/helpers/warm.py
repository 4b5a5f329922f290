"""Python processes that start at once: forked from one that has imported torch and the rest.

`Process([sys.executable, "-m", "dmcp_deploy", ...])` is what `subprocess.Popen` would be, without
the seconds of importing: a process of its own, in a session of its own, that can be killed.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_EXPORT = ("torch.onnx", "torch.onnx._internal.exporter._core", "torch._dynamo", "onnx")
_PRELOADED = ("torch", "torchvision", "onnxruntime", "onnxscript", *_EXPORT)


class Process:
    """A command in a process of its own; a context manager that kills it.

    Attributes:
        pid: Its number.
        returncode: Its exit code, or the signal that ended it, negative; None until it is known.
    """

    def __init__(self, command: Sequence[object], env: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            command: As for Python: `sys.executable`, then a script, -m and a module, or -c and
                code; then arguments.
            env: Its environment variables.
        """
        python, *words = map(str, command)
        assert python == sys.executable
        assert env["OMP_NUM_THREADS"] == "1", "torch has been loaded for one thread"
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        asked = {"words": words, "env": dict(env), "cwd": str(Path.cwd())}
        self.pid: int = _server().ask({**asked, "files": [str(path) for path in self._files]})
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code if it has ended."""
        if self.returncode is None:
            self.returncode = _server().ask({"pid": self.pid})
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for its end and returns what it wrote on standard output and standard error."""
        give_up = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > give_up:
                raise subprocess.TimeoutExpired("a warm process", timeout, *self._written())
            time.sleep(0.005)
        return self._written()

    def send_signal(self, number: int) -> None:
        """Sends a signal if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def _written(self) -> tuple[str, str]:
        output, errors = (path.read_text(encoding="utf-8") for path in self._files)
        return output, errors


def run(
    command: Sequence[object], env: Mapping[str, str], timeout: float = 400
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, as `subprocess.run` does with captured text."""
    with Process(command, env) as process:
        output, errors = process.communicate(timeout)
        assert process.returncode is not None
        return subprocess.CompletedProcess(list(command), process.returncode, output, errors)


class _Server:
    """The process that others are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(self._process.communicate)  # it ends with its input

    def ask(self, question: dict[str, Any]) -> Any:
        """Returns its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@functools.cache
def _server() -> _Server:
    return _Server()


# ---- inside the server ----


def _serve() -> None:
    """Answers questions until there are no more: starts processes, and tells what they ended in."""
    _preload()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        answer = _ended(question["pid"]) if "pid" in question else _fork(question)
        print(json.dumps(answer), file=answers, flush=True)


def _preload() -> None:
    import dmcp_deploy

    for module in pkgutil.walk_packages(dmcp_deploy.__path__, "dmcp_deploy."):
        if not module.name.endswith(("__main__", "pytest_plugin")):
            importlib.import_module(module.name)
    for name in _PRELOADED:
        importlib.import_module(name)


def _ended(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _fork(asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            _become(asked)
            code = _exit_code(asked["words"])
        except BaseException:  # it must not go on as the process that it was forked from
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def _become(asked: dict[str, Any]) -> None:
    """Makes this process one that a shell might have started."""
    os.setsid()
    os.chdir(asked["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, path in zip((0, 1, 2), (os.devnull, *asked["files"]), strict=True):
        file = os.open(path, os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, target)
    os.environ.clear()
    os.environ.update(asked["env"])
    here = asked["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in here if path and path not in sys.path]


def _exit_code(words: Sequence[str]) -> int:
    """Runs what Python's words ask for, and returns what Python would end with."""
    first, *rest = words
    try:
        if first == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = list(words)
            runpy.run_path(first, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    _serve()
