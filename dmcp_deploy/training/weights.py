"""A network's own weights on disk, as safetensors, and how tensors are loaded into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmcp_deploy.artifact import atomic_path
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.aliases import names_of_tensors, tensors_of


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a model's parameters and buffers as safetensors, in one step."""
    save_tensors(tensors_of(model), path, metadata)


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors as safetensors, in one step.

    Raises:
        DmcpError: The folder cannot be written to, or the disk is full.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with atomic_path(path) as part:
        try:
            save_file(plain, part, metadata=dict(metadata or {}))
        except SafetensorError as err:
            raise DmcpError(f"Cannot write {path}: {reason_of(err)}.") from err


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the named tensors of a safetensors file.

    Raises:
        DmcpError: The file is absent or damaged.
    """
    if not Path(path).is_file():
        raise DmcpError(f"There is no weights file {path}.")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as err:
        raise DmcpError(
            f"The weights file {path} is damaged ({reason_of(err)}): make it again."
        ) from err


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads tensors that must fit a model entirely.

    Raises:
        DmcpError: A tensor is missing, unknown or of another shape.
    """
    flaws = misfits(model, tensors)
    if flaws:
        raise misfit_error(source, [text for _, text in flaws])
    load_state(model, tensors)


def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Loads tensors with the versions that modules look at, which files and dictionaries lack.

    Args:
        model: What they are loaded into; what is not among them stays as it is.
        tensors: Name -> tensor.

    Returns:
        The names that are lacking, and those that are unknown.
    """
    state = OrderedDict(tensors)
    versions = {**versions_of(model.state_dict()), **versions_of(tensors)}
    state._metadata = versions  # type: ignore[attr-defined]
    lacking, unknown = model.load_state_dict(state, strict=False)
    return lacking, unknown


def misfits(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Returns name -> what is wrong of all tensors that do not fit, those of other shapes first.

    A tensor that has several names may come under any of them.
    """
    state, names = tensors_of(model), names_of_tensors(model)
    wrong = [
        (n, f"{n} is {list(tensors[n].shape)} where {list(state[n].shape)} is needed")
        for n in state
        if n in tensors and state[n].shape != tensors[n].shape
    ]
    missing = [
        (n, f"it lacks {n}")
        for n in state
        if "num_batches" not in n and not any(same in tensors for same in names.get(n, (n,)))
    ]
    unknown = [(n, f"the network has no {n}") for n in tensors if n not in state]
    return [*wrong, *missing, *unknown]


def misfit_error(source: str, flaws: Sequence[str]) -> DmcpError:
    """Returns the error of weights that do not fit, with the first of what does not."""
    more = f", and {len(flaws) - 1} more of the kind" if len(flaws) > 1 else ""
    return DmcpError(f"{source} does not fit the network: {flaws[0]}{more}.")


def versions_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns module -> what torch keeps of it beside its tensors; plain dictionaries lack it."""
    versions: dict[str, Any] = getattr(state, "_metadata", {})
    return versions
