"""Text to numbers and back: budgets, multiply-adds, milliseconds, bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dmcp_deploy.errors import DmcpError

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_INPUT = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,5})", re.IGNORECASE)
_BUDGET = re.compile(r"(?P<number>\d{1,18}(\.\d*)?|\.\d+)\s*(?P<unit>[kmgt%]?)", re.IGNORECASE)
_FEWEST = 1000  # multiply-adds or parameters of a network: fewer lack their unit

_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_LATENCY = re.compile(r"(?P<number>\d{1,9}(\.\d*)?|\.\d+)\s*(?P<unit>us|ms|s|%)", re.IGNORECASE)
_LATENCY_HINT = "write it as 25ms, 0.8ms, 1s or 60%"
_BARE = re.compile(r"\s*(\d+(\.\d*)?|\.\d+)\s*(m[a-z]*|s[a-z]*)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A budget: an absolute number of what is counted, or a share of the full network's.

    Attributes:
        text: The budget as the user wrote it.
        amount: Multiply-adds for one image, parameters or bytes; None if the budget is a share.
        share: In (0, 1]; None if the budget is absolute.
    """

    text: str
    amount: int | None
    share: float | None

    def resolve(self, full: int) -> int:
        """Returns the budget as a number, given what the full network has."""
        if self.amount is not None:
            return self.amount
        assert self.share is not None
        return math.floor(self.share * full)


def parse_budget(text: str) -> Budget:
    """Returns the FLOPs budget of a text such as "211M", "1.04G", "50%" or "300774272".

    Raises:
        DmcpError: The text is no number, not above zero, or a share above 100%.
    """
    return _parse_count(text, "FLOPs", "multiply-add", "211M, 1.04G or 50%")


def parse_params(text: str) -> Budget:
    """Returns the budget of parameters of a text such as "2M", "350k" or "50%".

    Raises:
        DmcpError: The text is no number, not above zero, or a share above 100%.
    """
    return _parse_count(text, "parameter", "parameter", "2M, 350k or 50%")


def parse_bytes(text: str) -> Budget:
    """Returns the budget of bytes of a text such as "8MB", "350kB" or "50%".

    Raises:
        DmcpError: The text is no number, not above zero, or a share above 100%.
    """
    count = re.sub(r"(?<=[\dkmgt\s.])b\s*$", "", text.strip(), flags=re.IGNORECASE)
    return replace(_parse_count(count, "weight", "byte", "8MB, 350kB or 50%", text), text=text)


def _parse_count(text: str, kind: str, one: str, examples: str, asked: str | None = None) -> Budget:
    match, hint = _BUDGET.fullmatch(text.strip()), f"write it as {examples}"
    said = f"The {kind} budget {asked or text!r}"
    if match is None:
        raise DmcpError(f"{said} is not understood: {hint}{_meant(text)}")
    number = float(match["number"])
    if number <= 0:
        raise DmcpError(f"{said} must be above zero: {hint}.")
    if match["unit"] == "%":
        if number > 100:
            raise DmcpError(f"{said} is above 100% of the network: {hint}.")
        return Budget(text, None, number / 100)
    amount = round(number * _SCALE[match["unit"].lower()])
    if amount < 1:
        raise DmcpError(f"{said} is below one {one}: {hint}.")
    return Budget(text, amount, None)


@dataclass(frozen=True)
class Latency:
    """A budget in time: an absolute number of milliseconds, or a share of the full network's.

    Attributes:
        text: The budget as the user wrote it.
        ms: Milliseconds; None if the budget is a share.
        share: In (0, 1]; None if the budget is absolute.
    """

    text: str
    ms: float | None
    share: float | None

    def resolve(self, full_ms: float) -> float:
        """Returns the budget in milliseconds, given what the full network takes."""
        if self.ms is not None:
            return self.ms
        assert self.share is not None
        return self.share * full_ms


def parse_latency(text: str) -> Latency:
    """Returns the milliseconds that a text such as "25ms", "0.8 ms", "1s" or "60%" names.

    Raises:
        DmcpError: The text is no time, has no unit, is not above zero, or a share above 100%.
    """
    match = _LATENCY.fullmatch(text.strip())
    if match is None:
        raise DmcpError(f"The latency budget {text!r} {_wrong_latency(text)}")
    number, unit = float(match["number"]), match["unit"].lower()
    if number <= 0:
        raise DmcpError(f"The latency budget {text!r} must be above zero: {_LATENCY_HINT}.")
    if unit != "%":
        return Latency(text, number * _MILLISECONDS[unit], None)
    if number > 100:
        raise DmcpError(
            f"The latency budget {text!r} is above 100% of the full network's time:"
            f" {_LATENCY_HINT}."
        )
    return Latency(text, None, number / 100)


def check_unit(
    text: str,
    kind: str = "FLOPs",
    examples: str = "211M, 1.04G or 50%",
    million: str = "M",
) -> None:
    """Checks that a budget that a user writes has the unit that it needs.

    Args:
        text: The budget.
        kind: What it is of, as a sentence about it has it.
        examples: How it may be written.
        million: How a million of it is written.

    Raises:
        DmcpError: It is so little that a share or millions were meant.
    """
    if not re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", text) or not 0 < float(text) < _FEWEST:
        return
    number = float(text)
    near = [f"{100 * number if number <= 1 else number:g}%"] if number <= 100 else []
    near += [f"{number:g}{million}"] if number > 1 else []
    raise DmcpError(
        f"The {kind} budget {text!r} has no unit: write it as {examples}; did you mean"
        f" {' or '.join(near)}?"
    )


def _wrong_latency(text: str) -> str:
    """Returns the end of a sentence about a text that names no time."""
    match = _BARE.fullmatch(text)
    if match is None:
        return f"is not understood: {_LATENCY_HINT}."
    unit = "s" if (match[3] or "m").lower().startswith("s") else "ms"
    what = "is not understood" if match[3] else "has no unit"
    return f"{what}: {_LATENCY_HINT}; did you mean {match[1]}{unit}?"


def _meant(text: str) -> str:
    """Returns the end of a sentence, with the budget that a text begins with if there is one."""
    number = re.fullmatch(r"\s*\d+(\.\d+)?e\d{1,2}\s*", text, re.IGNORECASE)
    if number is not None:
        macs = float(text)
        unit = next((unit for unit in "gmk" if macs >= _SCALE[unit]), "")
        return f"; did you mean {macs / _SCALE[unit]:g}{unit.upper()}?"
    match = re.match(rf"\s*({_BUDGET.pattern})(?=\s*(flop|mac|op))", text, re.IGNORECASE)
    if match is None:
        return "."
    bare = not match["unit"] and float(match["number"]) < _FEWEST
    return f"; did you mean {match[1].replace(' ', '')}{'M' if bare else ''}?"


def parse_input(text: str) -> tuple[int, int, int]:
    """Returns channels, height and width that a text such as "1x28x28" names.

    Raises:
        DmcpError: The text is no such shape, or one of the numbers is 0.
    """
    match = _INPUT.fullmatch(text.strip())
    if match is None or "0" in {number.lstrip("0") or "0" for number in match.groups()}:
        raise DmcpError(
            f"--input {text!r} is not understood: write channels x height x width, such as 1x28x28"
            " or 3x480x640."
        )
    channels, height, width = map(int, match.groups())
    return channels, height, width


def format_input(shape: Sequence[int]) -> str:
    """Returns a shape (C, H, W) as `parse_input` reads it."""
    return "x".join(map(str, shape))


def format_macs(macs: float) -> str:
    """Returns multiply-adds as people write them: "211.0M", "1.04G"."""
    for unit, digits in (("g", 2), ("m", 1), ("k", 1)):
        if macs >= _SCALE[unit]:
            return f"{macs / _SCALE[unit]:.{digits}f}{unit.upper()}"
    return f"{macs:.0f}"


def format_ms(milliseconds: float) -> str:
    """Returns milliseconds with three digits or more: "25.1 ms", "0.812 ms", "1240 ms"."""
    digits = max(0, 2 - math.floor(math.log10(milliseconds))) if milliseconds > 0 else 0
    return f"{milliseconds:.{digits}f} ms"


def format_bytes(count: float) -> str:
    """Returns bytes in decimal units: "13.9 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


#: What budgets are of, by the names that plans record; bytes may have a precision behind theirs.
MULTIPLY_ADDS = "multiply-adds"
PARAMETERS = "parameters"
WEIGHT_BYTES = "weight bytes"
MILLISECONDS = "milliseconds"


def format_quantity(quantity: str, value: float) -> str:
    """Returns a value with its unit: "211.0M multiply-adds", "8.1 MB of weights", "3.98 ms"."""
    if quantity == MILLISECONDS:
        return format_ms(value)
    if quantity.startswith(WEIGHT_BYTES):
        return f"{format_bytes(value)} of weights{quantity.removeprefix(WEIGHT_BYTES)}"
    return f"{format_macs(value)} {quantity}"
