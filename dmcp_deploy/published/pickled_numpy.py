"""What numpy's arrays and numbers are in a pickle: calls told by their names, and stood in for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmcp_deploy.errors import DmcpError

_MOST_AXES = 12
_NUMBER = re.compile(r"[iu][1248]|f[248]|b1")


@dataclass(frozen=True)
class Name:
    """The name of a function or class."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclass
class Dtype:
    """What a numpy dtype is rebuilt from."""

    code: str
    order: str = "|"


@dataclass
class Array:
    """What a numpy array is rebuilt from; empty until its state is known."""

    shape: tuple[int, ...] = (0,)
    values: list[Any] = field(default_factory=list)


def _array(kind: Any, shape: Any, code: Any) -> Array:
    """Stands for numpy's `_reconstruct`: an array whose state follows."""
    if kind != Name("numpy", "ndarray"):
        raise refusal(kind)
    return Array()


def _dtype(code: Any, *_: Any) -> Dtype:
    if not isinstance(code, str) or not (code == "O8" or _NUMBER.fullmatch(code)):
        raise DmcpError(f"the pickle holds numpy values of the type {str(code)[:20]!r}.")
    return Dtype(code)


def _scalar(dtype: Any, data: Any) -> Any:
    (value,) = _numbers(dtype, data)
    return value


def _encoded(text: Any, encoding: Any) -> bytes:
    """Stands for `codecs.encode`: how protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise TypeError("its bytes are not written as latin1")
    return text.encode("latin1")


#: What a pickle may name -> what stands for a call of it; None for what is named only.
KNOWN: dict[str, Callable[..., Any] | None] = {
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    "_codecs.encode": _encoded,
}


def known(name: Name) -> Name:
    """Returns a name that may stand in a pickle.

    Raises:
        DmcpError: It may not.
    """
    if str(name) not in KNOWN:
        raise refusal(name)
    return name


def refusal(name: Any) -> DmcpError:
    """Returns what is raised for what a pickle may not ask for."""
    return DmcpError(
        f"the pickle asks for {str(name)[:80]!r}, and only plain values and numpy arrays are read"
        " from it (nothing of it was run)."
    )


def fill(array: Array, _: Any, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
    """Gives an array its state, as numpy's `__setstate__` does.

    Raises:
        TypeError: It is not written as numpy writes it.
        ValueError: Shape and values contradict one another.
    """
    is_object = isinstance(dtype, Dtype) and dtype.code == "O8"
    values = data if is_object else _numbers(dtype, data)
    counted = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if not isinstance(values, list) or not counted or len(shape) > _MOST_AXES:
        raise TypeError("an array's state is not numpy's")
    if math.prod(shape) != len(values):
        raise ValueError(f"an array of shape {shape} holds {len(values)} values")
    array.shape, array.values = shape, values


def _numbers(dtype: Any, data: Any) -> list[Any]:
    numeric = isinstance(dtype, Dtype) and dtype.code != "O8"
    if not numeric or not isinstance(data, bytes) or dtype.order not in ("<", ">", "|", "="):
        raise TypeError("a number's state is not numpy's")
    order = dtype.order.replace("|", "=")
    return list(np.frombuffer(data, dtype=f"{order}{dtype.code}").tolist())
