"""Work in processes of its own: what comes back, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import ENVIRONMENT

from dmcp_deploy.comparison.workers import work_through
from dmcp_deploy.errors import DmcpError


def write_pid(path: Path) -> None:
    """Writes this process's number into a file, or refuses."""
    if path.name.startswith("refused"):
        raise DmcpError(f"{path.name} cannot be had.")
    path.write_text(str(os.getpid()))


def write_and_sleep(path: Path) -> None:
    """Writes this process's number and works for a long time."""
    path.write_text(str(os.getpid()))
    time.sleep(600)


def die(path: Path) -> None:
    """Ends its process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_piece_is_done_and_refusals_come_back(jobs: int, tmp_path: Path) -> None:
    pieces = [tmp_path / name for name in ("a", "refused-b", "c")]
    found = dict(work_through(pieces, write_pid, jobs))
    assert found == {pieces[0]: None, pieces[1]: "refused-b cannot be had.", pieces[2]: None}
    pids = {int(pieces[i].read_text()) for i in (0, 2)}
    assert (os.getpid() in pids) is (jobs == 1)


def test_a_process_that_dies_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"The process at work on .* died.* --jobs"):
        list(work_through([tmp_path / "a", tmp_path / "b"], die, 2))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(how: int, tmp_path: Path) -> None:
    script = (
        # A process that a shell starts in the background ignores Ctrl-C, and so do its children.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from test_workers import write_and_sleep;"
        "from dmcp_deploy.comparison.workers import work_through\n"
        "if __name__ == '__main__':\n"
        f"    pieces = [Path({str(tmp_path)!r}) / n for n in 'ab']\n"
        "    list(work_through(pieces, write_and_sleep, 2))\n"
    )
    program = tmp_path / "parent.py"
    program.write_text(script)
    here = str(Path(__file__).parent)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}{os.pathsep}{here}"}
    parent = subprocess.Popen([sys.executable, program], env=environment, stderr=subprocess.DEVNULL)
    files = [tmp_path / "a", tmp_path / "b"]
    assert _within(60, lambda: all(f.exists() and f.read_text() for f in files))
    workers = [int(f.read_text()) for f in files]
    parent.send_signal(how)
    parent.wait(30)
    assert _within(30, lambda: not any(map(_is_alive, workers)))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _within(seconds: float, holds) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return False
