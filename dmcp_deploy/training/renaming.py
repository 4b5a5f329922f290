"""Names of tensors in files of others, as the network that they are meant for has them."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dmcp_deploy.network.aliases import tensors_of
from dmcp_deploy.network.graph import Network
from dmcp_deploy.training.weight_files import Stored
from dmcp_deploy.training.weights import load_state, versions_of

#: Named tensors -> the same as a network names them; None where they are not of that kind.
Translation = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor] | None]

_TRIED = 4  # of the beginnings that most names share

#: The functions by which timm's modules translate what was saved elsewhere.
_TIMM_FILTERS = (
    *("checkpoint_filter_fn", "pretrained_filter_fn", "_filter_fn"),
    "_filter_torchvision_pretrained",
)


@dataclass(frozen=True)
class Renamed:
    """Named tensors of a file, without a beginning of their names or with another one.

    Attributes:
        place: Where they lie in the file, the beginning that was taken off included.
        tensors: Name -> tensor, with the versions of modules where the file has them.
        around: Names in the same place that do not begin so.
    """

    place: str
    tensors: Mapping[str, Tensor]
    around: tuple[str, ...]


def renamings(stored: Stored, wanted: Collection[str]) -> Iterator[Renamed]:
    """Yields tensors under names without beginnings that only they or only the network have.

    Args:
        stored: The tensors.
        wanted: The network's names.
    """
    seen = []
    for off, on in _beginnings(list(stored.tensors), set(wanted)):
        names = {name: on + name[len(off) :] for name in stored.tensors if name.startswith(off)}
        others = {name for name in stored.tensors if name in wanted and name not in names}
        names |= {name: name for name in others - set(names.values())}
        if names in seen:
            continue
        seen.append(names)
        tensors = OrderedDict((new, stored.tensors[old]) for old, new in names.items())
        tensors._metadata = {  # type: ignore[attr-defined]
            (on + f"{name}."[len(off) :]).rstrip("."): version
            for name, version in versions_of(stored.tensors).items()
            if f"{name}.".startswith(off)
        }
        place = ".".join(filter(None, [stored.place, off.rstrip(".")]))
        yield Renamed(place, tensors, tuple(stored.tensors.keys() - names.keys()))


def translations(network: Network) -> list[Translation]:
    """Returns how the library of a model, and its modules themselves, read older names."""
    return [*_library_translations(network.model), functools.partial(_loaded, network.model)]


def _beginnings(names: list[str], wanted: set[str]) -> list[tuple[str, str]]:
    """Returns pairs of what to take off names and what to put on, likely ones first."""
    taken: Counter[tuple[str, str]] = Counter({("", ""): 1})
    for name in names:
        taken.update((off, "") for off, rest in _splits(name) if rest in wanted)
    given = set(names)
    for name in wanted:
        taken.update(("", on) for on, rest in _splits(name) if rest in given)
    likely = [pair for pair, _ in taken.most_common(_TRIED)]
    shared = _shared_beginning(names), _shared_beginning(list(wanted))
    return list(dict.fromkeys([("", ""), *likely, shared]))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yields a name in two at each of its dots, the dot with the first part."""
    for place, letter in enumerate(name):
        if letter == "." and place + 1 < len(name):
            yield name[: place + 1], name[place + 1 :]


def _shared_beginning(names: list[str]) -> str:
    """Returns the modules that all names begin with, a dot behind each; "" for none."""
    first, last = min(names, default="").split("."), max(names, default="").split(".")
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(f"{part}." for part, _ in shared)


def _library_translations(model: nn.Module) -> list[Translation]:
    module = sys.modules[type(model).__module__]
    library = module.__name__.partition(".")[0]
    if library == "torchvision" and hasattr(module, "_load_state_dict"):
        return [functools.partial(_torchvisions_names, module._load_state_dict)]
    if library == "timm":
        filters = [getattr(module, name) for name in _TIMM_FILTERS if hasattr(module, name)]
        return [functools.partial(_filtered, each, model) for each in filters]
    return []


class _Given:
    """Weights that torchvision's loading function asks for, and the model that it gives them to."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def get_state_dict(self, **_options: Any) -> dict[str, Tensor]:
        return self.tensors

    def load_state_dict(self, tensors: dict[str, Tensor], **_options: Any) -> None:
        self.tensors = tensors


def _torchvisions_names(
    load: Callable[..., Any], tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    given = _Given(tensors)
    load(model=given, weights=given, progress=False)
    return given.tensors


def _filtered(
    filter_: Callable[..., Any], model: nn.Module, tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor] | None:
    takes_model = len(inspect.signature(filter_).parameters) > 1
    try:
        named = filter_(dict(tensors), *([model] if takes_model else []))
    except Exception:  # written for other files, it may raise anything on this one
        return None
    return named if all(isinstance(t, Tensor) for t in named.values()) else None


def _loaded(model: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """Returns what a copy of a model holds after loading, with all that its modules do on it."""
    other = copy.deepcopy(model)
    state = tensors_of(other)
    of_other_shape = {n: t for n, t in tensors.items() if n in state and t.shape != state[n].shape}
    try:
        lacking, unknown = load_state(
            other, {n: t for n, t in tensors.items() if n not in of_other_shape}
        )
    except Exception:  # a module's own loading may raise anything on what is not its own
        return None
    if any(name not in tensors for name in unknown):
        return None
    known = {n: t for n, t in tensors_of(other).items() if n not in lacking}
    return {**known, **of_other_shape, **{name: tensors[name] for name in unknown}}
