"""Results that a search saves as soon as it has them: the turns it took, the plans it judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from dmcp_deploy.search.problem import SearchProblem
from dmcp_deploy.training.checkpoint import Checkpoints
from dmcp_deploy.training.distributed import is_main

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Row = TypeVar("_Row", bound="DataclassInstance")


class SavedRows(Generic[_Row]):
    """Rows of one dataclass, in the order in which they came; a checkpoint has a tensor per field.

    Attributes:
        rows: All of them, those of an interrupted search included.
    """

    def __init__(self, problem: SearchProblem, name: str, kind: type[_Row]) -> None:
        """Reads what there is.

        Args:
            problem: The search.
            name: Of the checkpoint's file.
            kind: A dataclass whose fields are numbers, or tuples of whole numbers.

        Raises:
            DmcpError: The checkpoint is damaged, or of another run.
        """
        self._names = [field.name for field in dataclasses.fields(kind)]
        path = problem.folder / "checkpoints" / f"{name}.safetensors"
        self._checkpoints = Checkpoints(path, problem.request.token(), problem.compute.progress)
        self.rows: list[_Row] = []
        if (saved := self._checkpoints.load()) is not None:
            columns = [saved.tensors[name].tolist() for name in self._names]
            for row in zip(*columns, strict=True):
                self.rows.append(kind(*(tuple(v) if isinstance(v, list) else v for v in row)))

    def add(self, rows: Iterable[_Row]) -> None:
        """Adds rows; the process that writes files saves all."""
        self.rows += rows
        if is_main():
            columns = {name: [getattr(row, name) for row in self.rows] for name in self._names}
            tensors = {name: _tensor(values) for name, values in columns.items()}
            self._checkpoints.save(len(self.rows), tensors)


def _tensor(values: list[object]) -> torch.Tensor:
    return torch.tensor(
        values, dtype=torch.float64 if isinstance(values[0], float) else torch.int64
    )
