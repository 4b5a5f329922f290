"""Pickles are read as data: real ones give their values, harmful ones are refused, none is run."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_plans import DMCP_RESNET50, resnet50_dict

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.pickles import read_pickle

CONTENT = resnet50_dict(DMCP_RESNET50)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        CONTENT,
        {"a": [1, 2.5, None, True, "x", b"\xff\x00", (), (1, 2, 3, 4)], 7: -(2**70)},
        [],
        "text",
    ],
)
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_an_array_of_one_object_is_that_object(protocol: int) -> None:
    array = np.empty((), dtype=object)
    array[()] = CONTENT
    assert read_pickle(pickle.dumps(array, protocol=protocol)) == CONTENT


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "value", [np.int64(52), np.int32(-3), np.uint8(200), np.float32(0.5), np.bool_(True)]
)
def test_numbers_of_numpy_become_numbers(value: np.generic, protocol: int) -> None:
    found = read_pickle(pickle.dumps({"conv1": (value, value)}, protocol=protocol))
    assert found == {"conv1": (value.item(), value.item())}
    assert type(found["conv1"][0]) is type(value.item())


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "<f8", "|u1"])
def test_arrays_of_numbers_become_lists(dtype: str) -> None:
    data = pickle.dumps(np.array([1, 2, 3], dtype=dtype), protocol=4)
    assert read_pickle(data) == [1, 2, 3]


def test_arrays_that_numpy_1_wrote_are_read_as_well() -> None:
    # Both write the same, but for the place of the function that rebuilds arrays.
    data = pickle.dumps(np.array([7, 8]), protocol=2)
    old = data.replace(b"numpy._core.", b"numpy.core.")
    new = data.replace(b"numpy.core.", b"numpy._core.")
    assert old != new
    assert read_pickle(old) == read_pickle(new) == [7, 8]


class Command:
    """What pickle rebuilds by running a command."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._made_by = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made_by


class Stateful:
    """What pickle rebuilds without a call of its own, by opcode NEWOBJ and a state."""

    def __init__(self) -> None:
        self.state = 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("where", ["alone", "in a dict", "in an array"])
def test_a_command_is_refused_and_not_run(protocol: int, where: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    value: Any = Command(os.system, f"touch {trace}")
    if where != "alone":
        value = {"conv1": value}
    if where == "in an array":
        value = np.array(value, dtype=object)
    data = pickle.dumps(value, protocol=protocol)
    with pytest.raises(DmcpError, match=r"asks for '(posix|nt)\.system', .* \(nothing of it was"):
        read_pickle(data)
    assert not trace.exists()
    pickle.loads(data)  # what it would have done
    assert trace.exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "asks for 'builtins.eval'"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "asks for 'builtins.eval'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for 'os.system'"),
        (b"\x80\x02cnumpy\nload\n.", "asks for 'numpy.load'"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "asks for 'numpy.ndarray'"),
        (b"\x80\x02cnumpy\nndarray\n.", "asks for 'numpy.ndarray'"),
        (b"\x80\x02Pid\n.", "the opcode PERSID"),
        (b"\x80\x02K\x01Q.", "the opcode BINPERSID"),
        (b"(ios\nsystem\n.", "the opcode INST"),
        (b"(cos\nsystem\no.", "asks for 'os.system'"),
        (b"(K\x01o.", "the opcode OBJ"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"\x80\x02}}b.", "sets the state of what is no numpy array"),
        (b"\x80\x02}K\x01K\x02R.", "damaged"),
        (b"\x80\x02K\x01)R.", "calls what is no function"),
        (b"I5\n.", "the opcode INT"),
        (b"\x80\x02]K\x01K\x02s.", "sets items of what is no dict"),
        (b"\x80\x02}K\x01a.", "appends to what is no list"),
        (b"\x80\x02}]K\x01s.", "a key is neither text nor a whole number"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02e.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\xffab.", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"", "damaged"),
        (b"\xff\xff", "damaged"),
    ],
)
def test_what_is_neither_value_nor_array_is_named_and_refused(data: bytes, named: str) -> None:
    with pytest.raises(DmcpError, match=named):
        read_pickle(data)


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_classes_are_refused(protocol: int) -> None:
    with pytest.raises(DmcpError, match=r"asks for '.*Stateful'"):
        read_pickle(pickle.dumps(Stateful(), protocol=protocol))


def test_a_list_within_itself_ends() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(DmcpError, match="more than 12 levels"):
        read_pickle(pickle.dumps(ring, protocol=4))


def test_few_bytes_that_name_lists_many_times_over_end() -> None:
    value: Any = []
    for _ in range(10):
        value = [value] * 10
    data = pickle.dumps(value, protocol=4)
    assert len(data) < 1000
    with pytest.raises(DmcpError, match="more than 100000 values"):
        read_pickle(data)


def test_a_pickle_of_too_many_opcodes_ends() -> None:
    with pytest.raises(DmcpError, match="more than 100000 opcodes"):
        read_pickle(b"\x80\x02" + b"N" * 200_000 + b".")


def test_a_far_place_in_the_memo_takes_no_room() -> None:
    assert read_pickle(b"\x80\x02K\x05r\xff\xff\xff\x7f.") == 5


def array_state(shape: Any, dtype: bytes, data: Any) -> bytes:
    """Returns the pickle of an array with any shape, dtype and values that are claimed."""
    plain = [pickle.dumps(part, protocol=2)[2:-1] for part in (shape, data)]
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    named = b"U" + struct.pack("B", len(dtype)) + dtype
    kind = b"cnumpy\ndtype\n" + named + b"K\x00K\x01\x87R"
    return head + b"(K\x01" + plain[0] + kind + b"\x89" + plain[1] + b"tb."


@pytest.mark.parametrize(
    ("shape", "dtype", "data", "named"),
    [
        ((2,), b"O8", [1], "holds 1 values"),
        ((2**40,), b"O8", [1], "state is not numpy's"),
        (("a" * 9, 2**30), b"O8", [1], "state is not numpy's"),
        ((-1,), b"O8", [1], "state is not numpy's"),
        ((1,) * 40, b"O8", [1], "state is not numpy's"),
        (7, b"O8", [1], "state is not numpy's"),
        ((1,), b"O8", 7, "state is not numpy's"),
        ((1,), b"i8", [1], "a number's state"),
        ((1,), b"i9", [1], "numpy values of the type 'i9'"),
        ((1,), b"V8000000000", [1], "numpy values of the type 'V8000000000'"),
        ((1,), b"i8,O8", [1], "numpy values of the type 'i8,O8'"),
    ],
)
def test_an_array_that_contradicts_itself_is_refused(
    shape: Any, dtype: bytes, data: Any, named: str
) -> None:
    assert read_pickle(array_state((1,), b"O8", ["x"])) == ["x"]
    with pytest.raises(DmcpError, match=named):
        read_pickle(array_state(shape, dtype, data))


# pickletools unescapes the text of opcodes of old, before they can be refused.
@pytest.mark.filterwarnings("ignore:invalid (octal )?escape sequence:DeprecationWarning")
def test_whatever_is_cut_off_or_changed_it_is_read_or_refused() -> None:
    array = np.array({"conv1": np.int64(3), "a": [1, (2.5, "x")], "b": b"y"}, dtype=object)
    for protocol in (2, 3, 4):
        data = pickle.dumps(array, protocol=protocol)
        for end in range(len(data)):
            with pytest.raises(DmcpError):
                read_pickle(data[:end])
        draw = random.Random(protocol)
        for _ in range(1500):
            changed = bytearray(data)
            for _ in range(draw.randint(1, 3)):
                changed[draw.randrange(len(data))] = draw.randrange(256)
            try:
                read_pickle(bytes(changed))
            except DmcpError:
                continue
