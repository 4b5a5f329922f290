"""Files that stages hand to one another: versioned JSON, digests, atomic writes."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import functools
import hashlib
import json
import os
import reprlib
import sys
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dmcp_deploy import __version__
from dmcp_deploy.errors import DmcpError, reason_of

SCHEMA_VERSION = 1

#: The metadata of a dataclass's field that files of older releases lack: they mean its default.
LATER = {"later": True}

#: The same, and files of today lack it too where it is at its default.
LATER_IF_SET = {**LATER, "if_set": True}

_T = TypeVar("_T")

#: The names and numbers on the way to a value of a file, from its top on.
Place = tuple[str | int, ...]

_UNIONS, _LISTS = (typing.Union, types.UnionType), (tuple, Sequence)
_WORDS = {int: "an int", float: "a float", str: "a str", bool: "a bool", type(None): "null"}


class MisstatedError(ValueError):
    """A value of a file that is missing or of another type; the text names and shows it.

    Attributes:
        place: The names and numbers on the way to it, from the file's top on.
    """

    def __init__(self, place: Place, said: str = "") -> None:
        """Takes where it is, and what to say of it behind its name."""
        self.place = place
        named = list(place)
        while named and isinstance(named[-1], int):
            named.pop()
        *way, name = named or ["content"]
        where = f" in {'.'.join(map(str, way))}" if way else ""
        super().__init__(f"{name!r}{said}{where}")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place once the block has succeeded.

    The file is flushed to disk before the rename, so that a reader sees the old content or the
    new one and never a part. If the block raises, nothing is left behind.

    Raises:
        DmcpError: The folder cannot be written to, a folder lies there, or the disk is full.
    """
    path = Path(path)
    part = _make_part(path)
    try:
        yield part
        _flush(part)
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as err:
        raise DmcpError(f"Cannot write {path}: {reason_of(err)}.") from err
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path, kind: str | None = None) -> None:
    """Checks that a file can be written, before the work whose result it shall hold.

    Args:
        path: The file.
        kind: The artifact's kind, where it may take the place of no other file.

    Raises:
        DmcpError: The folder cannot be written to, a folder lies there, or another kind of file.
    """
    _make_part(Path(path)).unlink()
    if kind is not None and Path(path).is_file() and Path(path).stat().st_size:
        try:
            read_artifact(path, kind)
        except DmcpError as err:
            reason = str(err).rstrip(".")
            raise DmcpError(f"{path} would be lost ({reason}): name another file.") from err


def near_file(path: Path) -> str:
    """Returns the end of a sentence about a file that is absent: one beside it of a like name."""
    names = {beside.name.lower(): beside for beside in path.parent.glob("*")}
    near = difflib.get_close_matches(path.name.lower(), names, n=1, cutoff=0.8)
    return f"; did you mean {names[near[0]]}?" if near else "."


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one step (see `atomic_path`)."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def well_formed(what: str, remedy: str = "") -> Iterator[None]:
    """Turns what a file's values raise on being read into a sentence about the file.

    Args:
        what: The file, as a sentence about it begins.
        remedy: How the sentence ends, before its full stop.

    Raises:
        DmcpError: A value is missing, of another type, or refused by what it is read into.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
        raise DmcpError(f"{what} lacks or misstates {err}{remedy}.") from err
    except DmcpError as err:
        raise DmcpError(f"{what} is not valid: {err}") from err


def write_artifact(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Writes an artifact's JSON, headed by its kind, schema version and this tool's version."""
    head = {"kind": kind, "schema_version": SCHEMA_VERSION, "tool_version": __version__}
    # The head stands first and wins: content read from an older release's file brings its own.
    whole = {**head, **content, **head}
    write_text(path, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def read_artifact(path: Path, kind: str) -> dict[str, Any]:
    """Returns the JSON of the artifact in `path`, its head included.

    Raises:
        DmcpError: The file is absent, no JSON, of another kind or another schema version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DmcpError(f"There is no {kind} file {path}{near_file(Path(path))}") from err
    except IsADirectoryError as err:
        raise DmcpError(f"{path} is a folder, and {_a(kind)} file is needed.") from err
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    except UnicodeDecodeError as err:
        raise DmcpError(
            f"{path} is not readable as the JSON of {_a(kind)}: it is no text."
        ) from err
    except ValueError as err:
        raise DmcpError(f"{path} is not readable as the JSON of {_a(kind)}: {err}.") from err
    if not isinstance(content, dict):
        content = {}
    if (found := content.get("kind")) != kind:
        what = "not told" if found is None else repr(found)
        raise DmcpError(f"{path} is not {_a(kind)} file: its kind is {what}.")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DmcpError(
            f"{path} has schema version {version!r}, and this release reads {SCHEMA_VERSION}:"
            f" use the release that wrote it ({content.get('tool_version', 'unknown')})."
        )
    return content


def load_artifact(
    path: Path, kind: str, shape: type[_T], what: str | None = None, remedy: str = ""
) -> _T:
    """Returns the artifact in `path`, as `write_artifact` wrote what `encode` gave.

    Args:
        path: The file.
        kind: What its head says.
        shape: The artifact's dataclass.
        what: The file, as a sentence about it begins; its path by default.
        remedy: What a sentence about a missing or wrong value ends with.

    Raises:
        DmcpError: As `read_artifact`, or a value is missing, of another type, or refused.
    """
    content = read_artifact(path, kind)
    with well_formed(what or str(path), remedy):
        return decode(shape, content)


def encode(value: Any) -> Any:
    """Returns a dataclass, and what it holds, as JSON values: objects, lists, text, numbers.

    A field is called as in the dataclass, or what its metadata say under "json".
    """
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if _is_written(field, value)]
        return {_key(field): encode(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(shape: type[_T], content: object, *place: str) -> _T:
    """Returns the value of a type whose JSON values `encode` gave.

    Every field must be there, whatever its default, but for those of `LATER`; what there is under
    other names is passed over. An int is a float too, and a bool is no int.

    Args:
        shape: A dataclass, an int, a float, a str, a bool, or tuples, sequences, mappings and
            unions of these; `Any` is taken as it is.
        content: The JSON values.
        *place: The names on the way to them, for the message.

    Raises:
        MisstatedError: A value is missing or of another type.
        DmcpError: A dataclass refuses its values.
    """
    decoded: _T = _decode(shape, content, place)
    return decoded


def digest_file(path: Path) -> str:
    """Returns the SHA-256 of a file, as "sha256:<hex>"."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def digest_files(paths: Iterable[Path]) -> str:
    """Returns one digest of files that belong together; a single file's is its own."""
    parts = [digest_file(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"


def _decode(shape: Any, value: Any, place: Place) -> Any:
    if shape is Any or type(value) is shape:
        return value
    if dataclasses.is_dataclass(shape) and isinstance(value, Mapping):
        return _decode_fields(shape, value, place)
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    if origin in _UNIONS:
        return _decode_one_of(shape, value, place)
    if origin in _LISTS and isinstance(value, list):
        return _decode_items(shape, value, place)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        of_key, of_item = parts
        return {of_key(k): _decode(of_item, item, (*place, k)) for k, item in value.items()}
    if shape is float and type(value) is int and abs(value) <= sys.float_info.max:
        return value
    raise _misstated(shape, value, place)


def _decode_fields(shape: Any, content: Mapping[str, Any], place: Place) -> Any:
    values = {}
    for field, kind in _typed_fields(shape):
        key = _key(field)
        if key in content:
            values[field.name] = _decode(kind, content[key], (*place, key))
        elif not field.metadata.get("later"):
            raise MisstatedError((*place, key))
    try:
        return shape(**values)
    except DmcpError as err:
        if not place:
            raise
        raise DmcpError(f"{'.'.join(map(str, place))}: {err}") from err


def _decode_one_of(shape: Any, value: Any, place: Place) -> Any:
    errors = [_misstated(shape, value, place)]
    for part in typing.get_args(shape):
        try:
            return _decode(part, value, place)
        except MisstatedError as err:
            errors.append(err)
    raise max(errors, key=lambda err: len(err.place))


def _decode_items(shape: Any, values: list[Any], place: Place) -> Any:
    parts = typing.get_args(shape)
    repeats = len(parts) == 1 or parts[1] is Ellipsis
    if repeats and all(type(value) is parts[0] for value in values):
        return tuple(values)
    kinds = [parts[0]] * len(values) if repeats else parts
    if len(kinds) != len(values):
        raise _misstated(shape, values, place)
    items = zip(kinds, values, strict=True)
    return tuple(_decode(kind, value, (*place, n)) for n, (kind, value) in enumerate(items))


def _misstated(shape: Any, value: object, place: Place) -> MisstatedError:
    return MisstatedError(place, f": {reprlib.repr(value)} ({_in_words(shape)} is needed)")


def _in_words(shape: Any) -> str:
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    if origin in _UNIONS:
        return " or ".join(map(_in_words, parts))
    if origin in _LISTS:
        return "a list" if Ellipsis in parts or len(parts) == 1 else f"a list of {len(parts)}"
    return _WORDS.get(shape, "an object")


@functools.cache
def _typed_fields(shape: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(shape)
    return [(field, hints[field.name]) for field in dataclasses.fields(shape)]


def _is_written(field: dataclasses.Field[Any], value: Any) -> bool:
    return not field.metadata.get("if_set") or getattr(value, field.name) != field.default


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("json", field.name))


def _make_part(path: Path) -> Path:
    """Returns a new empty file beside a path."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except FileExistsError as err:
        raise DmcpError(f"Cannot write {path}: {path.parent} is not a folder.") from err
    except OSError as err:
        raise DmcpError(f"Cannot write {path}: {reason_of(err)}.") from err
    return Path(name)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
