"""One of torch's functions done another way while a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class Replaced(TorchFunctionMode):
    """Has every call of a function in the context made to another one.

    It acts on the function that modules call, so that layers which are narrowed for one pass are
    in it too. Inside the other function the first one is itself again.
    """

    def __init__(self, function: Callable[..., Any], other: Callable[..., Any]) -> None:
        """Takes a function of torch, and one of the same arguments."""
        super().__init__()
        self._function, self._other = function, other

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        run = self._other if func is self._function else func
        return run(*args, **(kwargs or {}))
