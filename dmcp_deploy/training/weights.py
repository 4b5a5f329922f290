"""Weights on disk: safetensors, and torch files read without running pickled code."""

from __future__ import annotations

import io
import pickle
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmcp_deploy.artifact import atomic_path
from dmcp_deploy.errors import DmcpError, reason_of

_DOWNLOAD_TIMEOUT_S = 15.0

#: What torch.load raises, but for OSError, on files that are damaged or hold more than tensors.
_NO_TENSORS = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError),
    *(LookupError, AssertionError, struct.error),
)


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a model's parameters and buffers as safetensors, in one step."""
    save_tensors(model.state_dict(), path, metadata)


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
    """Returns the named tensors of a safetensors or torch file.

    Raises:
        DmcpError: The file is absent, damaged, or holds more than tensors.
    """
    if not Path(path).is_file():
        raise DmcpError(f"There is no weights file {path}.")
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads tensors that must fit a model entirely.

    Raises:
        DmcpError: A tensor is missing, unknown or of another shape.
    """
    misfit = _misfits(model, tensors)
    if misfit:
        raise DmcpError(f"{source} does not fit the network: {misfit[0][1]}.")
    model.load_state_dict(dict(tensors))


def load_pretrained(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> list[str]:
    """Loads weights trained elsewhere; a classifier for other classes stays as it is.

    Args:
        model: The network.
        tensors: The weights.
        source: Their name, for messages.

    Returns:
        The tensors that were left out because the number of classes differs.

    Raises:
        DmcpError: Another tensor is missing, unknown or of another shape.
    """
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    head = layers[-1] if layers else ""
    skipped = []
    state = model.state_dict()
    for name, text in _misfits(model, tensors):
        both = name in tensors and name in state and name.rpartition(".")[0] == head
        if not (both and tensors[name].shape[1:] == state[name].shape[1:]):
            raise DmcpError(f"{source} does not fit the network: {text}.")
        skipped.append(name)
    model.load_state_dict({k: v for k, v in tensors.items() if k not in skipped}, strict=False)
    return skipped


def imagenet_tensors(model_name: str) -> dict[str, Tensor]:
    """Returns torchvision's ImageNet weights of a model, downloaded when not cached.

    Raises:
        DmcpError: torchvision has none for the model, or the download fails.
    """
    from torchvision import models

    if model_name not in models.list_models(module=models):
        raise DmcpError(
            f"--weights imagenet is torchvision's, and {model_name} is not: pass a weights file."
        )
    weights = models.get_model_weights(model_name).DEFAULT
    try:
        with _time_limit(_DOWNLOAD_TIMEOUT_S), redirect_stdout(io.StringIO()):
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as err:
        raise DmcpError(
            f"The ImageNet weights of {model_name} could not be downloaded ({reason_of(err)}):"
            f" download {weights.url} elsewhere and pass the file with --weights."
        ) from err
    kept = {k: v for k, v in state.items() if not k.startswith(("aux1.", "aux2.", "AuxLogits."))}
    return dict(kept)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Limits how long a connection may keep silent; torch.hub sets no limit itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as err:
        raise DmcpError(
            f"The weights file {path} is damaged ({reason_of(err)}): make it again."
        ) from err


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_NO_TENSORS, OSError) as err:
        raise DmcpError(
            f"The weights file {path} cannot be read as plain tensors ({_reason(err)}): save"
            " model.state_dict(), best as safetensors."
        ) from err
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DmcpError(f"The weights file {path} holds no state dict of tensors.")
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def _reason(err: Exception) -> str:
    """Returns what torch.load complains of, without its advice to run what is in the file."""
    found = re.search(r"Unsupported (global: GLOBAL \S+|operand \d+)", str(err))
    return found[0] if found else reason_of(err).partition(". ")[0]


def _misfits(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Returns name -> what is wrong of all tensors that do not fit, those of other shapes first."""
    state = model.state_dict()
    missing = [(n, f"it lacks {n}") for n in state if n not in tensors and "num_batches" not in n]
    unknown = [(n, f"the network has no {n}") for n in tensors if n not in state]
    wrong = [
        (n, f"{n} is {list(tensors[n].shape)} where {list(state[n].shape)} is needed")
        for n in state
        if n in tensors and state[n].shape != tensors[n].shape
    ]
    return [*wrong, *missing, *unknown]
