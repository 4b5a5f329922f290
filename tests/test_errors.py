from __future__ import annotations

import re

import pytest

from dmcp_deploy.errors import reason_of


class OddError(Exception):
    pass


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        (ValueError("the shape is wrong.\nsecond line"), "the shape is wrong"),
        (ValueError("\n\n  one\t two :\n"), "one two"),
        (ValueError("\x1b[31mred\x1b[0m"), "red"),
        (ValueError("a bell \x07 and a \u202e turn"), "a bell ? and a ? turn"),
        (OddError(), "OddError"),
        (OddError(" \n."), "OddError"),
        (PermissionError(13, "Permission denied", "secret.txt"), "Permission denied"),
        (
            OSError("libcuda.so.1: cannot open shared object file"),
            "libcuda.so.1: cannot open shared",
        ),
        (ImportError("No module named 'onnx'"), "No module named 'onnx'"),
        (ValueError("long " * 100), ("long " * 40).rstrip()),
    ],
)
def test_a_reason_is_the_first_line_short_and_printable(err: Exception, reason: str) -> None:
    assert reason_of(err).startswith(reason)
    assert len(reason_of(err)) <= 200
    assert reason_of(err).isprintable()


def test_a_text_that_could_not_be_decoded_is_read_all_the_same() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"Unknown operator Re\xffu\n at node 3".decode()
    assert reason_of(caught.value) == "Unknown operator Re?u"


def test_lines_that_tell_nothing_are_passed_over_unless_there_are_no_others() -> None:
    noise = re.compile(r"Check |.*:$")
    err = RuntimeError("Check 'false' failed at model.cpp:47:\nSummary:\n-- no rule for MyOp\n")
    assert reason_of(err, noise) == "no rule for MyOp"
    assert reason_of(RuntimeError("Check 1 failed at model.cpp:47:\n"), noise).startswith("Check 1")
