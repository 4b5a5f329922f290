"""Pickles read as data: what they would rebuild is recognised, and nothing of them is run.

Only opcodes that build plain values are read, and of the calls only those by which numpy rebuilds
its arrays and numbers; these are told by their name, and no name is ever looked up.
"""

from __future__ import annotations

import pickletools
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.pickled_numpy import KNOWN, Array, Dtype, Name, fill, known, refusal

_MOST_OPCODES = 100_000
_MOST_VALUES = 100_000
_MOST_LEVELS = 12

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
#: Opcodes whose argument is the value.
_WITH_VALUE = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
}


def read_pickle(data: bytes) -> Any:
    """Returns the plain value of a pickle: dicts, lists, tuples, text, bytes and numbers.

    numpy's numbers become Python's; its arrays become lists, and one value if they have no axis.

    Raises:
        DmcpError: The pickle is damaged, or asks for anything but plain values; what it asks
            for is named, and has not been done.
    """
    machine = _Machine()
    try:
        value = machine.run(data)
    except (ValueError, IndexError, KeyError, TypeError) as err:
        raise DmcpError(f"the pickle is damaged ({err}).") from err
    return _Plain().value(value, 0)


class _Machine:
    """A pickle's stack and memo, with no way to call anything."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == _MOST_OPCODES:
                raise DmcpError(f"the pickle has more than {_MOST_OPCODES} opcodes.")
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self._push(_CONSTANTS[name])
            case _ if name in _WITH_VALUE:
                self._push(argument)
            case "EMPTY_LIST":
                self._push([])
            case "EMPTY_DICT":
                self._push({})
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._push(tuple(self._popped(_TUPLES[name])))
            case "TUPLE":
                self._push(tuple(self._since_mark()))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._push(self._memo[argument])
            case "MARK":
                self._marked.append(self._stack)
                self._stack = []
            case "APPEND" | "APPENDS":
                self._extend(self._popped(1) if name == "APPEND" else self._since_mark())
            case "SETITEM" | "SETITEMS":
                self._update(self._popped(2) if name == "SETITEM" else self._since_mark())
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                self._push(known(Name(module, attribute)))
            case "STACK_GLOBAL":
                self._push(known(Name(*map(str, self._popped(2)))))
            case "REDUCE":
                self._rebuild(*self._popped(2))
            case "BUILD":
                self._set_state(*self._popped(2))
            case _:
                raise DmcpError(
                    f"the pickle uses the opcode {name}, which plain values and numpy arrays do"
                    " not need (nothing of it was run)."
                )

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _popped(self, count: int) -> list[Any]:
        """Returns the last values of the stack, which loses them."""
        if len(self._stack) < count:
            raise IndexError("its stack runs empty")
        split = len(self._stack) - count
        values, self._stack[split:] = self._stack[split:], []
        return values

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError("it appends to what is no list")
        self._stack[-1].extend(values)

    def _update(self, values: list[Any]) -> None:
        target, keys = self._stack[-1], values[::2]
        if type(target) is not dict or len(values) % 2:
            raise TypeError("it sets items of what is no dict")
        if not all(type(key) in (str, int) for key in keys):
            raise TypeError("a key is neither text nor a whole number")
        target.update(zip(keys, values[1::2], strict=True))

    def _rebuild(self, name: Any, arguments: Any) -> None:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError("it calls what is no function")
        rebuild = KNOWN[str(name)]
        if rebuild is None:
            raise refusal(name)
        self._push(rebuild(*arguments))

    def _set_state(self, target: Any, state: Any) -> None:
        if isinstance(target, Dtype) and isinstance(state, tuple):
            target.order = str(state[1])
        elif isinstance(target, Array) and isinstance(state, tuple):
            fill(target, *state)
        else:
            raise DmcpError(
                "the pickle sets the state of what is no numpy array (opcode BUILD; nothing of it"
                " was run)."
            )
        self._push(target)


class _Plain:
    """Turns what a pickle rebuilt into plain values, up to a depth and a number of values.

    A pickle of few bytes can name one list many times over, or within itself.
    """

    def __init__(self) -> None:
        self._count = 0

    def value(self, value: Any, level: int) -> Any:
        self._count += 1
        if level > _MOST_LEVELS or self._count > _MOST_VALUES:
            limit = f"{_MOST_LEVELS} levels" if level > _MOST_LEVELS else f"{_MOST_VALUES} values"
            raise DmcpError(f"the pickle holds more than {limit} of values within one another.")
        if isinstance(value, dict):
            return {key: self.value(item, level + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.value(item, level + 1) for item in value)
        if isinstance(value, Array):
            items = [self.value(item, level + 1) for item in value.values]
            return items if value.shape else items[0]
        if isinstance(value, Name | Dtype):
            raise refusal(value if isinstance(value, Name) else "numpy.dtype")
        return value
