"""A run's request made real: where it lies, in which arithmetic it computes, its data and plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dmcp_deploy.bench.tables.model import LatencyModel, latency_model
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import ImageData
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.proven import ONNX_TOLERANCE
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.run.data import RunData, note_data, open_run_data
from dmcp_deploy.run.target import read_table
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.request import RunRequest
from dmcp_deploy.rundir.stages import Stage
from dmcp_deploy.search.costs.asked import AskedBudget, asked_budgets
from dmcp_deploy.search.costs.asked_time import latency_budget
from dmcp_deploy.training.distributed import is_main, wait_for_all
from dmcp_deploy.training.loop import LoopSettings
from dmcp_deploy.training.precision import Precision, choose_precision
from dmcp_deploy.training.recipe import Recipe, recipe_from_json
from dmcp_deploy.units import format_input

SUPERNET = "supernet.safetensors"


@dataclass(frozen=True)
class RunContext:
    """What the stages of a run share; what costs time is made on first use.

    Attributes:
        run: The run directory.
        request: What is asked of the run.
        compute: How it is computed.
        images: Its pictures where they are open already; None opens what the request names.
        onnx_tolerance: How far the logits of an ONNX file may differ, of the largest.
    """

    run: RunDir
    request: RunRequest
    compute: Compute
    images: ImageData | None = None
    onnx_tolerance: float = ONNX_TOLERANCE

    @classmethod
    def resume(cls, folder: Path, compute: Compute) -> RunContext:
        """Returns the context of a run that was begun before.

        Raises:
            DmcpError: There is no run in the folder, or its data is not where it shall lie now.
        """
        run = RunDir(folder)
        context = cls(run, run.request(), compute)
        context.note_moved_data()
        return context

    def note_moved_data(self) -> None:
        """Takes over the place where the data lies now, if it has moved.

        Raises:
            DmcpError: There is other data, or none.
        """
        if self.compute.moved_data is not None:
            _ = self.data

    @cached_property
    def precision(self) -> Precision:
        """Device and arithmetic of training."""
        chosen = choose_precision(self.compute.device, self.request.precision)
        return replace(
            chosen, sync_bn=self.request.sync_bn, channels_last=not self.request.contiguous
        )

    @cached_property
    def exact(self) -> Precision:
        """The same device in FP32: what accuracies and proofs are computed in."""
        return replace(self.precision, bf16=False)

    @cached_property
    def recipe(self) -> Recipe:
        """The hyper-parameters."""
        return recipe_from_json(dict(self.request.recipe))

    @cached_property
    def budgets(self) -> tuple[AskedBudget, ...]:
        """The budgets that are asked for."""
        counted = asked_budgets(
            flops=self.request.budget,
            params=self.request.params,
            weight_bytes=self.request.weight_bytes,
            weight_precision=self.request.weight_precision,
        )
        if self.request.latency is None:
            return counted
        return (*counted, latency_budget(self.request.latency, self.latency_model))

    @cached_property
    def table(self) -> LatencyTable:
        """The latency table that tells the time of plans.

        Raises:
            DmcpError: It is missing, damaged, or was replaced.
        """
        assert self.request.table_digest is not None
        return read_table(self.run, self.request.table_digest)

    @cached_property
    def latency_model(self) -> LatencyModel:
        """What a plan takes on the target, by the table alone."""
        return latency_model(self.table)

    @cached_property
    def data(self) -> RunData:
        """The data; the same as at the run's start.

        Raises:
            DmcpError: It has changed since.
        """
        data = open_run_data(
            self.request,
            self.recipe,
            self.compute,
            self.precision.device,
            self.run,
            self.images,
        )
        note_data(data, self.run)
        return data

    @contextmanager
    def stage(
        self, name: Stage, inputs: Sequence[str], outputs: Sequence[str], spent_s: float = 0.0
    ) -> Iterator[dict[str, Any]]:
        """Yields a place for a stage's figures; of several processes the first records them.

        It ends for all of them once the record is written (see `RunDir.stage`).
        """
        if is_main():
            with self.run.stage(name, inputs, outputs, spent_s) as figures:
                yield figures
        else:
            yield {}
        wait_for_all()

    def plan(self) -> ChannelPlan:
        """Returns the run's channel plan.

        Raises:
            DmcpError: There is none yet, it is damaged, or it is of another network.
        """
        path = self.run.file("plan.json")
        if not path.exists():
            raise DmcpError(f"{self.run.path} has no plan.json yet: run search first.")
        plan = ChannelPlan.load(path)
        if plan.network != self.request.network:
            theirs, ours = _describe(plan.network), _describe(self.request.network)
            raise DmcpError(f"{path} is a plan of {theirs}, and the run is of {ours}.")
        return plan

    def loop_settings(self, name: str, steps: int, token: str) -> LoopSettings:
        """Returns how a loop of this run goes; its files are named after it."""
        return LoopSettings(
            title=name,
            steps=steps,
            seed=step_seed(self.request.seed, 0, name),
            token=token,
            checkpoint=self.run.file(f"checkpoints/{name}.safetensors"),
            metrics=self.run.file(f"metrics/{name}.jsonl"),
            checkpoint_s=self.compute.checkpoint_s,
            tensorboard=self.compute.tensorboard,
        )


def _describe(spec: NetworkSpec) -> str:
    size = format_input(spec.input_shape)
    return f"{spec.model} x{spec.width_mult:g} for {spec.num_classes} classes on {size} inputs"
