"""Pickles read as data: what they would rebuild is recognised, and nothing of them is run.

Only opcodes that build plain values are read, and of the calls only those by which numpy rebuilds
its arrays and numbers; these are told by their name, and no name is ever looked up.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.pickled_numpy import KNOWN, Array, Dtype, Name, fill, known, refusal

_MOST_OPCODES = 100_000
_MOST_VALUES = 100_000
_MOST_LEVELS = 12

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_WITH_VALUE = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
}
_MEMOIZED = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_RECALLED = {"BINGET", "LONG_BINGET"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FRAMING = {"PROTO", "FRAME"}


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
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _WITH_VALUE:
            self._stack.append(argument)
        elif name in _TUPLES:
            self._stack.append(tuple(self._popped(_TUPLES[name])))
        elif name in _MEMOIZED:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in _RECALLED:
            self._stack.append(self._memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _FRAMING:
            raise DmcpError(
                f"the pickle uses the opcode {name}, which plain values and numpy arrays do not"
                " need (nothing of it was run)."
            )

    def _popped(self, count: int) -> list[Any]:
        """Returns the last values of the stack, which loses them."""
        if len(self._stack) < count:
            raise IndexError("its stack runs empty")
        split = len(self._stack) - count
        values, self._stack[split:] = self._stack[split:], []
        return values

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._marked.pop()
        return values

    def _tuple(self, _: Any) -> None:
        values = tuple(self._since_mark())
        self._stack.append(values)

    def _append(self, _: Any) -> None:
        self._extend(self._popped(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TypeError("it appends to what is no list")
        self._stack[-1].extend(values)

    def _set_item(self, _: Any) -> None:
        self._update(self._popped(2))

    def _set_items(self, _: Any) -> None:
        self._update(self._since_mark())

    def _update(self, values: list[Any]) -> None:
        target, keys = self._stack[-1], values[::2]
        if type(target) is not dict or len(values) % 2:
            raise TypeError("it sets items of what is no dict")
        if not all(type(key) in (str, int) for key in keys):
            raise TypeError("a key is neither text nor a whole number")
        target.update(zip(keys, values[1::2], strict=True))

    def _global(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self._stack.append(known(Name(module, attribute)))

    def _stack_global(self, _: Any) -> None:
        module, attribute = self._popped(2)
        self._stack.append(known(Name(str(module), str(attribute))))

    def _reduce(self, _: Any) -> None:
        name, arguments = self._popped(2)
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise TypeError("it calls what is no function")
        rebuild = KNOWN[str(name)]
        if rebuild is None:
            raise refusal(name)
        self._stack.append(rebuild(*arguments))

    def _build(self, _: Any) -> None:
        target, state = self._popped(2)
        if isinstance(target, Dtype) and isinstance(state, tuple):
            target.order = str(state[1])
        elif isinstance(target, Array) and isinstance(state, tuple):
            fill(target, *state)
        else:
            raise DmcpError(
                "the pickle sets the state of what is no numpy array (opcode BUILD; nothing of it"
                " was run)."
            )
        self._stack.append(target)


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "TUPLE": _Machine._tuple,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}


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
