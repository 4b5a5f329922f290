"""What benchmarks/chaos.py does things to: runs in forked processes, and disks that are full."""

from __future__ import annotations

import importlib
import os
import re
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from dmcp_deploy.cli.main import main
from dmcp_deploy.training.metrics import read_metrics

_PATIENCE_S = 120
_SENTENCE = re.compile(r"(?:Error: |Stopped by |The checkpoint |\w+: resumed ).*")
ROOM_BYTES = 64 << 20
_HEAVY = {"dmcp_deploy", "numpy", "PIL", "safetensors", "sympy", "torch", "torchvision", "tqdm"}


@dataclass(frozen=True)
class Site:
    """Where runs are made, and the undisturbed one that they are compared with.

    Attributes:
        folder: Holds everything.
        steps: Of the search and of retraining; the search's second half is stage 2.
        mount: Whether a full disk may be a tmpfs.
        seconds: What the undisturbed run took.
        start_s: What it took until the first step was on record.
    """

    folder: Path
    steps: int
    mount: bool
    seconds: float = 0.0
    start_s: float = 0.0
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def truth(self) -> Path:
        """The undisturbed run."""
        return self.folder / "undisturbed"

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint of the search."""
        return (self.truth / "checkpoints" / "search.safetensors").stat().st_size

    @property
    def step_s(self) -> float:
        """What a step took, on average of both loops, with its share of all else."""
        return (self.seconds - self.start_s) / (2 * self.steps)

    def new_run(self) -> Path:
        """Returns the directory of a run that is not begun."""
        return self.folder / f"run{next(self._numbers)}"

    def start(
        self,
        run: Path,
        checkpoint_s: float = 0.0,
        *,
        limit_bytes: int | None = None,
        commands: Sequence[Sequence[str]] | None = None,
    ) -> Child:
        """Starts search and retraining in a process of its own.

        Args:
            run: The run directory.
            checkpoint_s: Seconds between checkpoints.
            limit_bytes: The size that no file may exceed; None for no limit.
            commands: Other commands to give.
        """
        log = self.folder / f"log{next(self._numbers)}"
        return Child(commands or self._commands(run, checkpoint_s), log, limit_bytes)

    def place(self, run: Path) -> str:
        """Returns where a run stands, by what it has left behind."""
        search, train = (self.steps_done(run, loop) for loop in ("search", "train"))
        if train:
            return "in retraining" if train < self.steps else "behind it"
        if search == self.steps:
            return "between the loops"
        return "before" if not search else f"in stage {1 if search <= self.steps // 2 else 2}"

    def steps_done(self, run: Path, loop: str) -> int:
        """Returns how many steps of a loop are on record."""
        return len(self.figures(run, loop))

    def figures(self, run: Path, loop: str) -> list[dict[str, float]]:
        """Returns what is on record of every step of a loop."""
        return read_metrics(run / "metrics" / f"{loop}.jsonl")

    def told(self, loop: str) -> list[dict[str, float]]:
        """Returns what the undisturbed run has on record of a loop."""
        return self.figures(self.truth, loop)

    def _commands(self, run: Path, checkpoint_s: float) -> list[list[str]]:
        asked = {
            "model": "chaos_runs:three_convolutions",
            "flops": "30%",
            "data": self.folder / "pictures",
            "out": run,
            "input-size": 32,
            "batch-size": 8,
            "max-steps": self.steps,
            "device": "cpu",
            "checkpoint-seconds": checkpoint_s,
        }
        search = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
        train = ["--device", "cpu", "--checkpoint-seconds", str(checkpoint_s)]
        return [["search", "--no-rehearse", *search], ["train", str(run), *train]]


class Child:
    """A process that gives commands, one after the other, until one of them fails."""

    def __init__(
        self, commands: Sequence[Sequence[str]], log: Path, limit_bytes: int | None = None
    ) -> None:
        """Starts it."""
        self._log, self._code, self._started = log, None, time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            _give(commands, log, limit_bytes)

    def wait(self) -> int:
        """Waits for its end; returns its exit code, or the signal that ended it, negative."""
        while self._poll() is None:
            if time.monotonic() - self._started > _PATIENCE_S:
                os.kill(self._pid, 9)
                raise TimeoutError(self._log.read_text())
            time.sleep(0.002)
        assert self._code is not None
        return self._code

    def end(self, number: int) -> int:
        """Sends a signal, if it has not ended; returns as `wait`."""
        if self._poll() is None:
            os.kill(self._pid, number)
        return self.wait()

    def wait_for_steps(self, run: Path, loop: str, steps: int) -> None:
        """Waits until so many steps of a loop are on record."""
        path = run / "metrics" / f"{loop}.jsonl"
        while self._poll() is None and _lines(path) < steps:
            if time.monotonic() - self._started > _PATIENCE_S:
                os.kill(self._pid, 9)
            time.sleep(0.001)

    def has_ended(self) -> bool:
        """Returns whether it has."""
        return self._poll() is not None

    def sentences(self) -> list[str]:
        """Returns what it said of how it went on or ended."""
        return _SENTENCE.findall(self._text())

    def is_one_sentence(self) -> bool:
        """Returns whether it ended with one line for the user, without a traceback."""
        text = self._text()
        return text.count("Error: ") == 1 and "Traceback" not in text

    def _text(self) -> str:
        return self._log.read_text().replace(str(self._log.parent), "…")

    def _poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def make_site(folder: Path, steps: int, *, mount: bool) -> Site:
    """Returns a site whose undisturbed run is done."""
    _make_pictures(folder / "pictures")
    site = Site(folder, steps, mount and os.geteuid() == 0)
    _import_what_runs_import(site)
    child, started = site.start(site.truth), time.monotonic()
    child.wait_for_steps(site.truth, "search", 1)
    first = time.monotonic()
    if child.wait() != 0:
        raise RuntimeError(child._text())
    seconds = time.monotonic() - started
    return Site(folder, steps, site.mount, seconds, first - started, site._numbers)


def three_convolutions(num_classes: int) -> nn.Module:
    """Returns a network for pictures of 32 pixels whose steps take milliseconds."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((3, 24, 3), (24, 40, 3), (40, 64, 1)):
        convolution = nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def _import_what_runs_import(site: Site) -> None:
    """Imports here what a run imports on its way, so that those forked later have it all."""
    names = site.folder / "modules"
    if (pid := os.fork()) == 0:
        _give(site._commands(site.new_run(), 0.0), site.folder / "warm.log", None, names)
    os.waitpid(pid, 0)
    if not names.exists():
        raise RuntimeError((site.folder / "warm.log").read_text())
    for name in names.read_text().split():
        if name.partition(".")[0] in _HEAVY:
            importlib.import_module(name)


@dataclass(frozen=True)
class Disk:
    """A disk with little room.

    Attributes:
        kind: What it is.
        folder: Where it is.
        limit_bytes: The size that files on it must be held to, where it has all the room.
        fill: Takes what room it has left.
        free: Gives it room.
    """

    kind: str
    folder: Path
    limit_bytes: int | None
    fill: Callable[[], object]
    free: Callable[[], object]


@contextmanager
def disk_of(site: Site, size_bytes: int) -> Iterator[Disk]:
    """Yields a disk of so many bytes."""
    folder = site.new_run()
    folder.mkdir()
    if not site.mount:
        yield Disk("files of limited size", folder, size_bytes // 3, lambda: None, lambda: None)
        return
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))

    ballast = folder / "ballast"

    def fill() -> None:
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free() -> None:
        ballast.unlink(missing_ok=True)
        _run("mount", "-o", f"remount,size={ROOM_BYTES}", str(folder))

    try:
        yield Disk("full disk, then freed", folder, None, fill, free)
    finally:
        _run("umount", str(folder))


def _give(
    commands: Sequence[Sequence[str]],
    log: Path,
    limit_bytes: int | None,
    modules: Path | None = None,
) -> None:
    """Gives commands in this process, with what they print in a file, and ends it."""
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        for words in commands:
            code = _exit_code(words)
            if code:
                break
        if modules is not None:
            modules.write_text("\n".join(sys.modules))
    except BaseException:  # it must not go on as the process that it was forked from
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _exit_code(words: Sequence[str]) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _make_pictures(folder: Path) -> None:
    draws = np.random.default_rng(0)
    for split, number in (("train", 16), ("val", 8)):
        for name in ("cat", "dog", "owl"):
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                picture = Image.fromarray(draws.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                picture.resize((48, 40)).save(folder / split / name / f"{index:02d}.png")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
