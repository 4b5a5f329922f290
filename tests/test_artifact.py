from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dmcp_deploy import __version__
from dmcp_deploy.artifact import (
    LATER,
    SCHEMA_VERSION,
    MisstatedError,
    atomic_path,
    decode,
    digest_file,
    encode,
    load_artifact,
    read_artifact,
    write_artifact,
    write_text,
)
from dmcp_deploy.errors import DmcpError


def test_round_trip_keeps_the_content_and_heads_it(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.json"
    write_artifact(path, "plan", {"widths": [8, 16], "note": "größer"})
    assert read_artifact(path, "plan") == {
        "kind": "plan",
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "widths": [8, 16],
        "note": "größer",
    }


def test_head_is_todays_when_content_read_from_an_old_file_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_artifact(path, "run", {"tool_version": "0.0.1", "schema_version": 0, "seed": 3})
    content = read_artifact(path, "run")
    assert content["tool_version"] == __version__
    assert content["seed"] == 3


def test_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_text(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_exception_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as part:
        break_off(part)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_old_file_is_readable_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_path(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_content_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_artifact(path, "plan", {"seed": 1})
    with pytest.raises(TypeError):
        write_artifact(path, "plan", {"seed": object()})
    assert read_artifact(path, "plan")["seed"] == 1
    assert os.listdir(tmp_path) == ["a.json"]


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from dmcp_deploy.artifact import write_artifact
count = 0
while True:
    write_artifact(Path(sys.argv[1]), "plan", {"count": count, "ballast": [count] * 50_000})
    if count == 0:
        print("started", flush=True)
    count += 1
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.017, 0.043, 0.071, 0.11])
def test_sigkill_at_any_moment_leaves_a_whole_file(tmp_path: Path, delay_s: float) -> None:
    path = tmp_path / "a.json"
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"started\n"
        time.sleep(delay_s)
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    content = read_artifact(path, "plan")
    assert content["ballast"] == [content["count"]] * 50_000


WRITE_BEYOND_LIMIT = """
import resource, sys
from pathlib import Path
from dmcp_deploy.artifact import write_text
from dmcp_deploy.errors import DmcpError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except DmcpError as err:
    print(err)
"""


def test_disk_that_refuses_more_bytes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    assert run(WRITE_BEYOND_LIMIT, path) == f"Cannot write {path}: File too large.\n"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


WRITE_UNPRIVILEGED = """
import os, sys
from pathlib import Path
from dmcp_deploy.artifact import write_text
from dmcp_deploy.errors import DmcpError
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    write_text(Path(sys.argv[1]), "x")
except DmcpError as err:
    print(err)
"""


def test_read_only_folder_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    path = folder / "a.txt"
    assert run(WRITE_UNPRIVILEGED, path) == f"Cannot write {path}: Permission denied.\n"


def test_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("I am a file")
    with pytest.raises(DmcpError, match=r"Cannot write .*plan\.json: .*taken is not a folder\.$"):
        write_text(tmp_path / "taken" / "plan.json", "x")
    with pytest.raises(DmcpError, match=r"Cannot write .*: Not a directory\.$"):
        write_text(tmp_path / "taken" / "deeper" / "plan.json", "x")


def test_path_that_is_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(DmcpError, match=r"Cannot write .*plan\.json: Is a directory\.$"):
        write_text(tmp_path / "plan.json", "x")
    assert os.listdir(tmp_path) == ["plan.json"]
    with pytest.raises(DmcpError, match=r"plan\.json is a folder, and a plan file is needed\.$"):
        read_artifact(tmp_path / "plan.json", "plan")


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DmcpError, match=r"^There is no plan file .*nowhere\.json\.$"):
        read_artifact(tmp_path / "nowhere.json", "plan")


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, None, "1"])
def test_unknown_schema_version_is_refused_with_the_release_that_wrote_it(
    tmp_path: Path, version: object
) -> None:
    path = tmp_path / "a.json"
    head = {"kind": "plan", "schema_version": version, "tool_version": "9.9"}
    path.write_text(json.dumps(head))
    with pytest.raises(DmcpError, match=r"schema version .* reads 1: use .* \(9\.9\)\.$"):
        read_artifact(path, "plan")


@pytest.mark.parametrize("content", ['{"kind": "record"}', "{}", "[1, 2]", '"plan"', "null"])
def test_wrong_kind_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DmcpError, match="is not a plan file: its kind is"):
        read_artifact(path, "plan")


def test_truncated_json_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_artifact(path, "plan", {"seed": 1})
    whole = path.read_text().rstrip()
    for length in range(len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(DmcpError, match="is not readable as the JSON of a plan"):
            read_artifact(path, "plan")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"kind": "\xff\xfe"}')
    with pytest.raises(DmcpError, match="is not readable as the JSON of a plan"):
        read_artifact(path, "plan")


def test_digest_is_the_sha256_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = bytes(range(256)) * 10_000
    path.write_bytes(content)
    assert digest_file(path) == "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Part:
    size: int = field(metadata={"json": "bytes"})
    share: float | None = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DmcpError(f"The size {self.size} must be 1 or more.")


@dataclass(frozen=True)
class Whole:
    name: str
    parts: Mapping[str, Part]
    kept: int | tuple[int, ...]
    shape: tuple[int, str]
    rows: Sequence[tuple[float, ...]]
    facts: Mapping[str, Any]
    quiet: bool = field(default=False, metadata=LATER)


WHOLE = Whole(
    "w", {"a.b": Part(3), "c": Part(4, None)}, (1, 2), (7, "x"), ((0.5, 1), ()), {"k": [1]}
)


def content(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(encode(WHOLE))), **changes}


def test_what_is_encoded_is_decoded_and_fields_stand_under_their_names_in_the_file() -> None:
    assert decode(Whole, content()) == WHOLE
    assert content()["parts"] == {
        "a.b": {"bytes": 3, "share": 0.5},
        "c": {"bytes": 4, "share": None},
    }
    assert decode(Whole, content(kept=5, more=1, quiet=True)).kept == 5


def test_only_later_fields_may_be_missing() -> None:
    old = content()
    del old["quiet"]
    assert decode(Whole, old) == WHOLE
    with pytest.raises(MisstatedError, match=r"^'share' in parts\.a$"):
        decode(Whole, content(parts={"a": {"bytes": 3}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "'name': 3 (a str is needed)"),
        ({"name": None}, "'name': None (a str is needed)"),
        ({"parts": []}, "'parts': [] (an object is needed)"),
        ({"parts": {"a": 3}}, "'a': 3 (an object is needed) in parts"),
        (
            {"parts": {"a": {"bytes": True, "share": 0}}},
            "'bytes': True (an int is needed) in parts.a",
        ),
        (
            {"parts": {"a": {"bytes": 1.0, "share": 0}}},
            "'bytes': 1.0 (an int is needed) in parts.a",
        ),
        ({"parts": {"a": {"bytes": 1, "share": "x"}}}, "'share': 'x' (a float or null is needed)"),
        (
            {"parts": {"a": {"bytes": 1, "share": False}}},
            "'share': False (a float or null is needed)",
        ),
        ({"kept": "12"}, "'kept': '12' (an int or a list is needed)"),
        ({"kept": [1, 2.5]}, "'kept': 2.5 (an int is needed)"),
        ({"shape": [7]}, "'shape': [7] (a list of 2 is needed)"),
        ({"rows": [[0.5], ["x"]]}, "'rows': 'x' (a float is needed)"),
        ({"rows": [[10**400]]}, "'rows': 1000"),
        ({"facts": 3}, "'facts': 3 (an object is needed)"),
        ({"quiet": 0}, "'quiet': 0 (a bool is needed)"),
    ],
)
def test_a_wrong_type_is_shown_with_its_place_and_what_is_needed(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_artifact(tmp_path / "a.json", "whole", content(**changes))
    with pytest.raises(DmcpError) as caught:
        load_artifact(tmp_path / "a.json", "whole", Whole, "The file", ": make it again")
    assert str(caught.value).startswith(f"The file lacks or misstates {message}")
    assert str(caught.value).endswith(": make it again.")


def test_what_a_dataclass_refuses_is_told_with_its_place(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a.json", "whole", content(parts={"a.b": {"bytes": 0, "share": 1}}))
    expected = r"a\.json is not valid: parts\.a\.b: The size 0 must be 1 or more\.$"
    with pytest.raises(DmcpError, match=expected):
        load_artifact(tmp_path / "a.json", "whole", Whole)
    with pytest.raises(DmcpError, match=r"^The size 0"):
        decode(Part, {"bytes": 0, "share": None})


def test_content_that_is_no_object_is_refused() -> None:
    with pytest.raises(MisstatedError, match=r"^'content': \[1\] \(an object is needed\)$"):
        decode(Whole, [1])
    with pytest.raises(MisstatedError, match=r"^'sizes': 'x' \(an int is needed\) in all$"):
        decode(dict[str, int], {"sizes": "x"}, "all")


def run(code: str, path: Path) -> str:
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def break_off(part: Path) -> None:
    part.write_text("half of the ne")
    raise ZeroDivisionError
