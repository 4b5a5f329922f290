"""The one loop behind search, training and distillation: resumable step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dmcp_deploy.data.seeds import step_seed
from dmcp_deploy.data.types import Batch
from dmcp_deploy.errors import DmcpError, Interrupted
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.training.allocator import freed_memory_kept
from dmcp_deploy.training.checkpoint import Checkpoint, Checkpoints
from dmcp_deploy.training.distributed import any_says, check_alike, is_main, rank, world_size
from dmcp_deploy.training.interrupt import caught_signals
from dmcp_deploy.training.metrics import Metrics
from dmcp_deploy.training.task import Task

#: Beginnings of the names of tensors that must be the same in all processes: weights,
#: architecture parameters, and the digest of the widths that were drawn.
_ALIKE = ("model.", "alphas", "drawn")


@dataclass(frozen=True)
class SharedPart:
    """The first steps of a loop that other runs have in common with it.

    Attributes:
        steps: How many they are.
        token: What identifies them, the same in all of these runs.
        kept: The file in which the state behind them is left for other runs.
        given: Such a file of another run, from which a loop starts that has not begun.
    """

    steps: int
    token: str
    kept: Path
    given: Path | None = None


@dataclass(frozen=True)
class LoopSettings:
    """How a loop runs.

    Attributes:
        title: What the progress bar says.
        steps: Steps in all.
        seed: With the step's number, the seed of all that is random in a step.
        token: What identifies the run for its checkpoint.
        checkpoint: The checkpoint's file.
        metrics: The file of figures.
        checkpoint_s: Seconds between checkpoints.
        tensorboard: Whether to write TensorBoard files beside the metrics.
        shared: What other runs have in common with it; None for nothing.
        is_done: Whether it has ended before: its state is read, and no step is done again.
    """

    title: str
    steps: int
    seed: int
    token: str
    checkpoint: Path
    metrics: Path
    checkpoint_s: float = 60.0
    tensorboard: bool = False
    shared: SharedPart | None = None
    is_done: bool = False


def run_loop(
    task: Task,
    batches: Callable[[int], Iterator[Batch]],
    settings: LoopSettings,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Runs a task to its last step, from its checkpoint if there is one.

    All randomness of a step comes from (seed, step), so that a loop that was killed and resumed
    ends bit for bit where an undisturbed one ends. On SIGTERM and SIGUSR1 it finishes its step and
    saves first; then it ends, or calls the handler that was installed before it began.

    Args:
        task: What to repeat; it is left in its final state.
        batches: Returns the batches from a given step on.
        settings: Steps, seed and files.
        progress: Where to report.

    Returns:
        The step at which it began: above 0 if it resumed.

    Raises:
        DmcpError: The checkpoint and the one before it are damaged, or of another run; or it is
            gone though the loop is done; or the training has diverged.
        Interrupted: SIGTERM or SIGUSR1 has come, nobody else handles it, and all is saved.
    """
    checkpoints = Checkpoints(settings.checkpoint, settings.token, progress)
    saved, origin = checkpoints.load(), "resumed"
    if saved is None:
        saved, origin = _shared_checkpoint(settings.shared), "taken over"
    start = 0 if saved is None else saved.step
    if settings.is_done and start < settings.steps:
        raise DmcpError(
            f"{settings.checkpoint} does not hold the last step of what is done: put it back, or"
            " begin anew in another folder."
        )
    if saved is not None:
        task.load(saved.tensors)
        progress.say(f"{settings.title}: {origin} at step {start} of {settings.steps}")
    _check_alike(task, start, settings)
    if start < settings.steps:
        _steps(task, batches(start), start, settings, checkpoints, progress)
    return start


def _steps(
    task: Task,
    batches: Iterator[Batch],
    start: int,
    settings: LoopSettings,
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    # Every process draws other random numbers in a step.
    purpose = "step" if is_main() else f"step of {rank()}"
    path = settings.metrics if is_main() else None
    saved_at = time.monotonic()
    with (
        freed_memory_kept(),
        caught_signals() as signals,
        Metrics(path, start, settings.tensorboard) as metrics,
        progress.task(settings.title, settings.steps, done=start) as bar,
    ):
        for step in range(start, settings.steps):
            try:
                batch = next(batches)
            except Interrupted:  # no batch came for a while, and a signal did
                if is_main() and step > start:
                    checkpoints.save(step, task.tensors())
                raise
            torch.manual_seed(step_seed(settings.seed, step, purpose))
            figures = task.step(step, batch)
            _check_finite(figures, step, settings.title)
            bar.advance(**{name: value for name, value in figures.items() if "/" not in name})
            metrics.write(step, figures)
            done = step + 1
            shared = settings.shared
            if is_main() and shared is not None and done == shared.steps:
                Checkpoint(done, shared.token, task.tensors()).save(shared.kept)
            late = time.monotonic() - saved_at >= settings.checkpoint_s
            late, stop = any_says(late, signals.waiting)
            if late or stop or done == settings.steps:
                _check_alike(task, done, settings)
                if is_main():
                    checkpoints.save(done, task.tensors())
                saved_at = time.monotonic()
            if stop:
                signals.heed_together()


def _check_alike(task: Task, done: int, settings: LoopSettings) -> None:
    """Checks that all processes stand at the same step, with the same weights and draws."""
    if world_size() > 1:
        alike = {name: t for name, t in task.tensors().items() if name.startswith(_ALIKE)}
        check_alike({"step": torch.tensor(done), **alike}, f"{settings.title}, step {done}")


def _shared_checkpoint(shared: SharedPart | None) -> Checkpoint | None:
    """Returns the state behind the steps that another run has done; None if none is named.

    Raises:
        DmcpError: It is not there, or of other settings.
    """
    if shared is None or shared.given is None:
        return None
    saved = Checkpoint.load(shared.given, shared.token)
    if saved is None:
        raise DmcpError(f"There is no {shared.given}: that run has not come so far yet.")
    return saved


def _check_finite(figures: Mapping[str, float], step: int, title: str) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise DmcpError(
                f"{title}: {name} is {value} at step {step}, the training has diverged: take a"
                " recipe with lower learning rates."
            )
