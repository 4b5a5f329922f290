from __future__ import annotations

import sys
import time

import pytest

from dmcp_deploy.machine.child import ask_python, run_bounded


def test_output_of_both_streams_and_the_exit_code_come_back():
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    answer = run_bounded([sys.executable, "-c", code], 60)
    assert (answer.code, answer.text) == (3, "out\nerr\n")


def test_a_program_that_is_not_there_is_an_answer():
    answer = run_bounded(["/no/such/program"], 60)
    assert answer.code == 127
    assert "No such file" in answer.text


def test_what_hangs_is_killed_with_what_it_started(tmp_path):
    """The grandchild holds the output open, and would write its file a second after the end."""
    sign = tmp_path / "grandchild"
    command = f"(sleep 2; touch {sign}) & echo started; sleep 60"
    begun = time.monotonic()
    answer = run_bounded(["/bin/sh", "-c", command], 1)
    assert (answer.code, answer.text) == (None, "started\n")
    assert time.monotonic() - begun < 20
    time.sleep(2)
    assert not sign.exists()


def test_what_python_says_comes_back_between_what_libraries_print():
    code = "print('hello'); say('1.2', ['a'], {'b': None}); print('bye')"
    assert ask_python(code, 60) == {"values": ["1.2", ["a"], {"b": None}]}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise OSError('libx.so:\\n  not found')", "OSError: libx.so: not found"),
        ("from dmcp_deploy.errors import DmcpError\nraise DmcpError('Do this.')", "Do this."),
        ("import os\nos.abort()", "it ends the process with Aborted (it printed nothing)"),
        ("print('why'); raise SystemExit(4)", "it ends the process with exit code 4 (why)"),
    ],
)
def test_every_other_end_is_a_problem(code, problem):
    assert ask_python(code, 60) == {"problem": problem}


def test_a_hang_is_a_problem():
    assert ask_python("import time\ntime.sleep(60)", 1) == {"problem": "it was not done after 1 s"}
