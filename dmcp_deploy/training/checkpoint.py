"""Where a loop stands, in one file that is written in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dmcp_deploy.artifact import SCHEMA_VERSION
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.training.weights import save_tensors

_KEY = "dmcp-deploy"


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
        """Writes the checkpoint; the one before stays until this one is complete."""
        head = {"step": self.step, "token": self.token, "schema_version": SCHEMA_VERSION}
        save_tensors(self.tensors, path, {_KEY: json.dumps(head)})

    @classmethod
    def load(cls, path: Path, token: str) -> Checkpoint | None:
        """Returns the checkpoint in a file, or None if there is none.

        Raises:
            DmcpError: The file is damaged, of another release's format, or of another run.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            version, found = head["schema_version"], cls(head["step"], head["token"], tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as err:
            raise DmcpError(
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


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Returns an optimiser's state as named tensors."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Restores what `optimizer_tensors` returned."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name.removeprefix(f"{prefix}.").split(".", 1)
            # Files hold rows in order; in the parameter's own order of memory (channels last) the
            # next step runs through the same code and rounds alike.
            own = torch.empty_like(parameters[int(index)]).copy_(value)
            state.setdefault(int(index), {})[key] = own
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
