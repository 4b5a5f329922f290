"""Dataclasses of options -> options of a command, which is handed instances of them."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from dmcp_deploy.options.declare import Option, check, declared, option
from dmcp_deploy.options.run import Compute
from dmcp_deploy.progress import TerminalProgress

_Command = TypeVar("_Command", bound=Callable[..., Any])


class But:
    """What a command's options lack, or have another default for, beside their annotation.

    `Annotated[BenchOptions, But("graph", seconds=4.0)]` leaves --graph out.
    """

    def __init__(self, *left_out: str, **defaults: Any) -> None:
        """Takes names of fields, and fields with their defaults."""
        self.left_out, self.defaults = left_out, defaults


@dataclass(frozen=True)
class PrintOptions:
    """How a command prints what it found.

    Attributes:
        as_json: Whether it prints JSON.
    """

    as_json: bool = option(False, flag="--json", help="Print JSON.")


def takes_options(command: _Command) -> _Command:
    """Adds the options of all dataclasses among the annotations of a command's parameters.

    The command is handed an instance of each; what is not allowed ends it in one sentence.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parts = {name: part for name, hint in hints.items() if (part := _part(hint)) is not None}

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> Any:
        made = {name: part.make(values) for name, part in parts.items()}
        return command(*args, **made, **values)

    added = [decorator for part in parts.values() for decorator in part.decorators()]
    return functools.reduce(lambda decorated, add: add(decorated), reversed(added), run)  # type: ignore[return-value]


class DeclaredOption(click.Option):
    """An option of the command line that a field declares."""

    def __init__(self, *args: Any, declaration: Option, **kwargs: Any) -> None:
        """Takes the declaration beside what click takes."""
        super().__init__(*args, **kwargs)
        self.declaration = declaration

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, Any]
    ) -> tuple[Any, ParameterSource]:
        """Returns what was given; an empty text, or the next option's name, is a mistake."""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.COMMANDLINE and isinstance(value, str):
            if not value.strip():
                raise click.UsageError(
                    f"{self.opts[0]} is empty: give a value or leave it out.", ctx
                )
            if value.startswith("--") and value in _flags(ctx.command):
                raise click.UsageError(f"{self.opts[0]} needs a value, before {value}.", ctx)
        return value, source


class PathText(click.Path):
    """The path of a file or folder, which is not empty."""

    def __init__(self) -> None:
        """Makes it a `Path`."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path; an empty text is refused, which would be the current folder."""
        if not str(value).strip():
            self.fail("it is empty: give a path, or . for the current folder.", param, ctx)
        return super().convert(value, param, ctx)


class _Text(click.ParamType):  # type: ignore[type-arg]  # generic in some releases alone
    """Text that stands for a value: 8, 1,8 or auto."""

    def __init__(self, declaration: Option) -> None:
        self._declaration = declaration
        is_number = declaration.kind in (int, float) and not declaration.is_list
        self.name = "number" if is_number and not declaration.about.words else "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._declaration.parse(str(value))


@dataclass(frozen=True)
class _Part:
    """A dataclass among the options of a command."""

    kind: type
    but: But

    def make(self, values: dict[str, Any]) -> Any:
        """Returns the instance, whose fields are taken out of a command's values."""
        fields = {item.name: values.pop(item.name) for item in self._options()}
        if self.kind is Compute:
            fields["progress"] = TerminalProgress()
        made = self.kind(**fields)
        check(made)
        return made

    def decorators(self) -> Iterator[Callable[[Any], Any]]:
        """Yields click's decorator of every option."""
        for item in self._options():
            default = self.but.defaults.get(item.name, item.default)
            attributes = _attributes(item, default)
            yield click.option(
                item.flag,
                item.name,
                cls=DeclaredOption,
                declaration=item,
                help=item.about.help,
                **attributes,
            )

    def _options(self) -> list[Option]:
        return [item for item in declared(self.kind) if item.name not in self.but.left_out]


def _part(hint: Any) -> _Part | None:
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    kind = typing.get_args(hint)[0] if extras else hint
    but = next((extra for extra in extras if isinstance(extra, But)), But())
    return _Part(kind, but) if isinstance(kind, type) and is_dataclass(kind) else None


def _attributes(item: Option, default: Any) -> dict[str, Any]:
    """Returns what click is told of an option, from its type and default."""
    if item.kind is bool:
        return {"is_flag": True, "default": default}
    attributes: dict[str, Any] = {"type": item.kind, "required": default is MISSING}
    if item.about.presets:
        attributes |= {"is_eager": True, "callback": _take_presets}
    if item.is_list or item.about.words:
        attributes["type"] = _Text(item)
        default = None if default is None and not item.about.words else item.text(default)
    elif item.kind in (int, float):
        attributes["type"] = _Text(item)
    elif item.kind is Path:
        attributes["type"] = PathText()
    if default is not MISSING and default is not None:
        attributes |= {"default": default, "show_default": default != ""}
    return attributes


def _flags(command: click.Command) -> set[str]:
    return {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)}


def _take_presets(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Lets what a recipe file says of the run stand in for options that are not given."""
    if value is not None:
        from dmcp_deploy.training.recipe import recipe_run

        ctx.default_map = recipe_run(value)
    return value
