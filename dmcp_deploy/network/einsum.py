"""The rule of sums over products that are spelled by letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmcp_deploy.network.call import Call, Value
from dmcp_deploy.network.channels import Channels

_UNKNOWN = "combined with a tensor whose channels are unknown"


@dataclass
class _Operand:
    """One factor: its letters, and its channels as far as they are known."""

    letters: str
    value: Channels | None

    def named(self) -> list[str]:
        """Returns the letters of the axes with channels."""
        return [] if self.value is None else [self.letters[axis] for axis in self.value.axes]


def einsum_rule(call: Call) -> Value:
    """Channels are tied where two factors share a letter, and go on where the result has it."""
    spelled, *factors = call.node.args
    if not isinstance(spelled, str) or "->" not in spelled or "." in spelled:
        call.pin_all("an einsum whose letters cannot be told")
        return None
    read, written = spelled.replace(" ", "").split("->")
    operands = [
        _Operand(letters, call.channels(factor))
        for letters, factor in zip(read.split(","), factors, strict=True)
    ]
    for operand in operands:
        _keep_sums(call, operand, operands, written)
    for operand in operands:
        _tie_letters(call, operand, [other for other in operands if other is not operand])
    return _result(call, operands, written)


def _keep_sums(call: Call, x: _Operand, operands: Sequence[_Operand], written: str) -> None:
    """Lets no axis of several narrow that is summed over, unless it narrows in another factor."""
    if x.value is None or x.value.ids.ndim == 1:
        return
    alone = {other.named()[0] for other in operands if len(other.named()) == 1}
    for dim, letter in enumerate(x.named()):
        if letter not in alone and (letter not in written or alone & set(x.named())):
            call.ids.tie_along(x.value.ids, dim)
    x.value = call.ids.compact(x.value)


def _tie_letters(call: Call, x: _Operand, others: Sequence[_Operand]) -> None:
    for dim, letter in enumerate(x.named()):
        assert x.value is not None
        for other in (other for other in others if letter in other.letters):
            if x.value.ids.ndim > 1 and letter not in other.named():
                call.ids.tie_along(x.value.ids, dim)
            elif letter not in other.named():
                call.ids.pin(x.value, _UNKNOWN)
    if x.value is not None:
        x.value = call.ids.compact(x.value)
    for other in others:
        if x.value is not None and other.value is not None and x.named() == other.named():
            call.ids.tie(x.value.ids, other.value.ids)


def _result(call: Call, operands: Sequence[_Operand], written: str) -> Channels | None:
    """Returns the channels of the result, which may lie along one of its axes."""
    ends = {x.named()[0]: x.value for x in operands if x.value is not None and len(x.named()) == 1}
    left = {letter: value for letter, value in ends.items() if letter in written}
    if len(left) > 1 or any(len(x.named()) > 1 for x in operands):
        call.pin_all("an einsum of channels with other axes")
        return None
    return next((Channels(v.ids, (written.index(name),)) for name, v in left.items()), None)
