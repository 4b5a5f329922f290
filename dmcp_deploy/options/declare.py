"""An option is a field of a dataclass, with its help and limits beside its default."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.registry import choose

_KEY = "option"
_LONGEST = 9  # digits of a number within a list

_T = TypeVar("_T")


@dataclass(frozen=True)
class About:
    """What an option says of itself beside its name, type and default.

    Attributes:
        help: What the command line says of it.
        flag: Its name on the command line, where that is not the field's: "--epochs".
        choices: The texts that are allowed; none for any.
        least: The smallest number that is allowed.
        most: The largest.
        remark: What is said behind a limit that is overstepped.
        words: What words of the command line stand for: {"none": None}.
        otherwise: What else can be done where a number is not understood: ", or leave it out".
        presets: Whether it names a file that sets other options' defaults.
        in_recipe: Whether a recipe file may set it.
        later: Whether records of old lack it; where it is at its default, those of today do too.
    """

    help: str
    flag: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    remark: str = ""
    words: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    otherwise: str = ""
    presets: bool = False
    in_recipe: bool = False
    later: bool = False


@dataclass(frozen=True)
class Option:
    """An option that a dataclass declares.

    Attributes:
        name: The field.
        kind: The type of its value, or of each where it has several.
        is_list: Whether it has several, as in 1,8.
        default: What it is if not given; MISSING for one that must be.
        about: What it says of itself.
    """

    name: str
    kind: type
    is_list: bool
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """Its name on the command line; with that of its opposite, if it has one."""
        return self.about.flag or f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> None:
        """Checks a value against choices and limits.

        Raises:
            DmcpError: It is none of the choices, or out of range.
        """
        about = self.about
        if value is None:
            return
        if about.choices:
            for each in value if self.is_list else (value,):
                choose(self.flag, each, about.choices)
        shown = f"{self.flag} {_spelled(value)}"
        if about.least is not None and about.most is not None:
            if not about.least <= value <= about.most:
                limits = f"{about.least}..{about.most}{about.remark}"
                raise DmcpError(f"{shown} must lie in {limits}.")
        elif about.least is not None and not value >= about.least:
            raise DmcpError(f"{shown} is too small: it must be at least {about.least}.")

    def parse(self, text: str) -> Any:
        """Returns the value that a text such as "1,8", "fp16,int8" or "auto" stands for.

        Raises:
            DmcpError: It stands for none.
        """
        words = self.about.words
        if text in words:
            return words[text]
        parts = self._parts(text)
        if self.kind in (int, float) and not self.is_list and not words:
            return self._number(text)
        if self.kind is int:
            numbers = self._counts(text, parts)
            return numbers if self.is_list else numbers[0]
        if not self.is_list:
            return text
        return tuple(part.lower() for part in parts) if text else ()

    def text(self, value: Any) -> str:
        """Returns the text that stands for a value on the command line."""
        words = (word for word, meaning in self.about.words.items() if meaning == value)
        return next(words, _spelled(value))

    def _parts(self, text: str) -> list[str]:
        parts = [part.strip() for part in text.split(",")] if self.is_list else [text]
        split = re.split(r"[;,\s]+", text.strip(" ;,"))
        if text and self.is_list and self.kind is str and len(split) > 1 and parts != split:
            raise DmcpError(
                f"{self.flag} {text!r} is not understood: write {','.join(split)}, with commas."
            )
        return [part for part in parts if part] if self.kind is str else parts

    def _number(self, text: str) -> int | float:
        try:
            return self.kind(text)  # type: ignore[no-any-return]
        except ValueError as err:
            what = "a whole number" if self.kind is int else "a number"
            known = isinstance(self.default, (int, float))
            such_as = f" such as {_spelled(self.default)}" if known else self.about.otherwise
            raise DmcpError(
                f"{self.flag} {text!r} is not understood: give {what}{such_as}."
            ) from err

    def _counts(self, text: str, parts: Sequence[str]) -> tuple[int, ...]:
        if all(map(_is_count, parts)):
            return tuple(map(int, parts))
        one = f"{' or '.join(self.about.words)} or a number from 1 on"
        hint = "numbers such as 1,8" if self.is_list else one
        raise DmcpError(f"{self.flag} {text!r} is not understood: give {hint}.")


def option(default: Any = MISSING, *, help: str, **about: Any) -> Any:
    """Returns the field of an option; one without a default must be given.

    Args:
        default: What it is if not given.
        help: What the command line says of it.
        **about: The other fields of `About`.
    """
    return dataclasses.field(default=default, metadata={_KEY: About(help, **about)})


@functools.cache
def declared(kind: type[Any]) -> tuple[Option, ...]:
    """Returns a dataclass's options as its constructor takes them: keyword-only ones last."""
    # Python 3.10 refuses KW_ONLY, which is no type.
    hints = typing.get_type_hints(kind, localns={"KW_ONLY": object})
    fields = sorted(dataclasses.fields(kind), key=lambda field: bool(field.kw_only))
    return tuple(
        Option(field.name, *_value_type(hints[field.name]), field.default, field.metadata[_KEY])
        for field in fields
        if _KEY in field.metadata
    )


def check(options: Any) -> None:
    """Checks every option of a dataclass's instance against its choices and limits.

    Raises:
        DmcpError: One has a value that is not allowed.
    """
    for item in declared(options.__class__):
        item.check(getattr(options, item.name))


def merged(kind: type[_T], options: _T | Mapping[str, Any] | None, **changes: Any) -> _T:
    """Returns options with changes; what is not given is at its default.

    Args:
        kind: Their dataclass.
        options: An instance of it, or fields of one; None for the defaults.
        **changes: Fields that differ.

    Raises:
        DmcpError: A value is not allowed.
        TypeError: The dataclass has no such field.
    """
    if isinstance(options, kind):
        return dataclasses.replace(options, **changes)  # type: ignore[type-var]
    return kind(**{**(options or {}), **changes})  # type: ignore[dict-item]


def shared_fields(kind: type, options: object) -> dict[str, Any]:
    """Returns those fields of some options that a dataclass has too, with their values."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(kind)}


def recorded(options: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass's instance for a record; lists in place of tuples."""
    later = later_fields(type(options))
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if name not in later or value != later[name]
    }


def later_fields(kind: type) -> dict[str, Any]:
    """Returns the options that records of old lack, with what they stand for there."""
    return {item.name: item.default for item in declared(kind) if item.about.later}


def words(kind: type, values: Mapping[str, Any]) -> list[str]:
    """Returns the command-line words that give options their values.

    Args:
        kind: The dataclass that declares them.
        values: Option -> value; None and an empty list stand for not given.
    """
    pairs = [(item, values.get(item.name)) for item in declared(kind)]
    return [word for item, value in pairs if value is not None for word in _words(item, value)]


def _words(item: Option, value: Any) -> list[str]:
    on, _, off = item.flag.partition("/")
    if value is True:
        return [on]
    if value is False:
        return [off] if off and item.default is None else []
    return [on, _spelled(value)] if _spelled(value) else []


def _value_type(hint: Any) -> tuple[type, bool]:
    """Returns the type of an option's value, None left aside, and whether it is a list of them."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _value_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is None:
        return hint, False
    return typing.get_args(hint)[0], True


def _spelled(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= _LONGEST and int(text) > 0
