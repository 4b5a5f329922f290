from __future__ import annotations

import subprocess
import sys
import threading

from dmcp_deploy.machine.lock import locked

HOLD = """
import sys
from pathlib import Path
from dmcp_deploy.machine.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_waits_for_the_first(tmp_path):
    path, entered = tmp_path / "new" / "a.lock", threading.Event()
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"

        def enter() -> None:
            with locked(path):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.3)
        holder.stdin.close()
        assert entered.wait(30)
        waiting.join()


def test_where_no_lock_can_be_written_work_goes_on(tmp_path):
    (tmp_path / "file").touch()
    with locked(tmp_path / "file" / "a.lock"):
        pass
