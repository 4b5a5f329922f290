"""Where a loop stands, in a file that is written in one step, beside the one before it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dmcp_deploy.artifact import SCHEMA_VERSION
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.training.weights import save_tensors

_KEY = "dmcp-deploy"
_PREVIOUS = ".previous"  # behind the name of the newest


class DamagedError(DmcpError):
    """A checkpoint's file is not as it was written."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a loop between two steps.

    Attributes:
        step: Steps done.
        token: What identifies the run; a checkpoint of another run is refused.
        tensors: Everything that changes from step to step.
    """

    step: int
    token: str
    tensors: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        """Writes the checkpoint; the one before stays until this one is complete.

        Raises:
            DmcpError: The folder cannot be written to, or the disk is full.
        """
        head = {
            "step": self.step,
            "token": self.token,
            "schema_version": SCHEMA_VERSION,
            "digest": digest_tensors(self.tensors),
        }
        save_tensors(self.tensors, path, {_KEY: json.dumps(head)})

    @classmethod
    def load(cls, path: Path, token: str) -> Checkpoint | None:
        """Returns the checkpoint in a file, or None if there is none.

        Raises:
            DamagedError: The file is damaged.
            DmcpError: It is of another release's format, or of another run.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            version, found = head["schema_version"], cls(head["step"], head["token"], tensors)
            if version == SCHEMA_VERSION and head["digest"] != digest_tensors(tensors):
                raise ValueError("its digest is another")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as err:
            raise DamagedError(
                f"The checkpoint {path} is damaged ({err}): delete it to start this stage again."
            ) from err
        if version != SCHEMA_VERSION:
            raise DmcpError(
                f"The checkpoint {path} has schema version {version!r}, and this release reads"
                f" {SCHEMA_VERSION}: delete the file to start this stage again."
            )
        if found.token != token:
            raise DmcpError(
                f"The checkpoint {path} belongs to a run with other settings: choose another"
                " --out, or delete the file to start this stage again."
            )
        return found


class Checkpoints:
    """The newest checkpoint of a loop, and the one before it in case the newest gets damaged.

    While a third is written all three lie on the disk.
    """

    def __init__(self, path: Path, token: str, progress: Progress = NO_PROGRESS) -> None:
        """Reads and writes nothing yet.

        Args:
            path: The newest one's file.
            token: What identifies the run.
            progress: Where to say that the newest is damaged.
        """
        self._path, self._token, self._progress = path, token, progress
        self._previous = path.with_name(path.name + _PREVIOUS)
        self._damaged = False

    def load(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, or None if there is none.

        Raises:
            DmcpError: All there are are damaged; or one is of another release's format, or of
                another run.
        """
        flaw = "missing"
        try:
            saved = Checkpoint.load(self._path, self._token)
        except DamagedError as err:
            if not self._previous.exists():
                raise
            saved, flaw, self._damaged = None, f"damaged ({err.__cause__})", True
        if saved is None and self._previous.exists():
            saved = self._load_previous(flaw)
        return saved

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes the checkpoint of a step; on failure those before it stay as they are.

        Raises:
            DmcpError: The folder cannot be written to, or the disk is full.
        """
        fresh = self._path.with_stem(f"{self._path.stem}.next")
        for part in fresh.parent.glob(f".{fresh.name}.*.part"):  # of a process that was killed
            part.unlink(missing_ok=True)
        Checkpoint(step, self._token, tensors).save(fresh)
        if not self._damaged:
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._previous)
        fresh.replace(self._path)
        self._damaged = False

    def _load_previous(self, flaw: str) -> Checkpoint | None:
        try:
            saved = Checkpoint.load(self._previous, self._token)
        except DamagedError as err:
            raise DamagedError(
                f"The checkpoint {self._path} is {flaw}, and {self._previous.name} is damaged"
                f" ({err.__cause__}): delete both to start this stage again."
            ) from err
        if saved is not None:
            self._progress.say(
                f"The checkpoint {self._path} is {flaw}: the one before it is taken, of step"
                f" {saved.step}."
            )
        return saved


def drop_previous(folder: Path) -> None:
    """Deletes what `Checkpoints` keeps in a folder in case the newest gets damaged."""
    for path in folder.glob(f"*{_PREVIOUS}"):
        path.unlink(missing_ok=True)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of named tensors, their types and shapes, as "sha256:<hex>"."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{sha.hexdigest()}"
