"""The runs that a comparison is made of: full networks and cells, each a piece of work."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import atomic_path
from dmcp_deploy.comparison.cells import Cell
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.run import Budgets, Compute, RunOptions
from dmcp_deploy.run import api
from dmcp_deploy.run.context import SUPERNET
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.stages import SEARCH

#: The full network as an ONNX file, in one of the cells.
ORIGINAL = "original.onnx"


@dataclass(frozen=True)
class Setting:
    """What all cells share.

    Attributes:
        folder: Where their run directories lie.
        model: The full network's name.
        budgets: A cell's budget as text -> the budgets.
        target: What budgets in time are for: fields of `options.measure.Setting`.
        options: What is asked of all runs.
        trains_full: Whether searches start from a full network that is trained first.
        compute: How runs are computed.
    """

    folder: Path
    model: str
    budgets: Mapping[str, Budgets]
    target: Mapping[str, Any] | None
    options: RunOptions
    trains_full: bool
    compute: Compute

    def full(self, seed: int) -> Path:
        """Returns the run directory of a seed's full network."""
        return self.folder / f"full-seed{seed}"

    def run(self, cell: Cell) -> RunDir:
        """Returns the run directory of a cell."""
        return RunDir(self.folder / cell.folder)

    def of_cell(self, cell: Cell) -> RunOptions:
        """Returns what is asked of a cell's run, but for trained weights to start from."""
        entry = cell.entry
        return replace(self.options, method=entry.method, distill=entry.distill, seed=cell.seed)

    def weights(self, seed: int) -> str | None:
        """Returns what the searches of a seed start from."""
        if not self.trains_full:
            return self.options.weights
        return str(self.full(seed) / "dense.safetensors")


@dataclass(frozen=True)
class FullTraining:
    """The training of a full network: a run whose plan keeps all."""

    setting: Setting
    seed: int

    def __str__(self) -> str:
        """Returns it in words."""
        return f"the full network, seed {self.seed}"

    def work(self) -> None:
        """Trains it, from its last checkpoint on."""
        setting, seed = self.setting, self.seed
        out, compute = setting.full(seed), setting.compute
        options = replace(setting.options, method="uniform", align=1, init="scratch", seed=seed)
        api.search(setting.model, "100%", out=out, options=options, compute=compute)
        api.train(out, compute=compute)


@dataclass(frozen=True)
class CellRun:
    """A cell's run."""

    setting: Setting
    cell: Cell

    def __str__(self) -> str:
        """Returns the cell in words."""
        return str(self.cell)

    def work(self) -> None:
        """Does what is missing of it."""
        cell, setting = self.cell, self.setting
        run, compute = setting.run(cell), setting.compute
        budgets = setting.budgets[cell.budget]
        api.search(
            setting.model,
            **budgets.texts(),
            table=budgets.table,
            target=setting.target,
            out=run.path,
            options=replace(setting.of_cell(cell), weights=setting.weights(cell.seed)),
            compute=compute,
        )
        if cell.lender is not None:
            take_supernet(run, setting.run(cell.lender))
        for stage in (api.slice, api.train):
            stage(run.path, compute=compute)
        api.export(run.path, original=run.file(ORIGINAL).exists(), compute=compute)


def take_supernet(run: RunDir, lender: RunDir) -> None:
    """Gives a searched run the full network's weights that another run's search has left.

    Raises:
        DmcpError: That search has not come to its end.
    """
    lent = lender.stages().get(SEARCH) if lender.is_begun() else None
    if lent is None or not lender.file(SUPERNET).is_file():
        raise DmcpError(
            f"{lender.path} has no {SUPERNET} that {run.path.name} could be cut out of: its search"
            " has failed, or its files are gone."
        )
    searched = run.stages()[SEARCH]
    if searched.outputs.get(SUPERNET) == lent.outputs[SUPERNET]:
        return
    with run.stage(SEARCH, [], [SUPERNET], searched.seconds) as figures:
        figures.update(searched.figures, supernet=lender.path.name)
        figures["full_accuracy"] = lent.figures["full_accuracy"]
        with atomic_path(run.file(SUPERNET)) as part:
            shutil.copyfile(lender.file(SUPERNET), part)
