"""The one loop behind search, training and distillation: resumable step by step."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.training.checkpoint import Checkpoint
from dmcp_deploy.training.data import Batch
from dmcp_deploy.training.distributed import is_main
from dmcp_deploy.training.metrics import Metrics


class Task(Protocol):
    """What a loop repeats: one step, and the state that it changes."""

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does one step and returns its figures; a bar leaves out those named "A/B"."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns everything that steps change."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""


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
    """

    title: str
    steps: int
    seed: int
    token: str
    checkpoint: Path
    metrics: Path
    checkpoint_s: float = 60.0
    tensorboard: bool = False


def run_loop(
    task: Task,
    batches: Callable[[int], Iterator[Batch]],
    settings: LoopSettings,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Runs a task to its last step, from its checkpoint if there is one.

    All randomness of a step comes from (seed, step), so that a loop that was killed and resumed
    ends bit for bit where an undisturbed one ends.

    Args:
        task: What to repeat; it is left in its final state.
        batches: Returns the batches from a given step on.
        settings: Steps, seed and files.
        progress: Where to report.

    Returns:
        The step at which it began: above 0 if it resumed.

    Raises:
        DmcpError: The checkpoint is damaged or of another run, or the training has diverged.
    """
    saved = Checkpoint.load(settings.checkpoint, settings.token)
    start = 0 if saved is None else saved.step
    if saved is not None:
        task.load(saved.tensors)
        progress.say(f"{settings.title}: resumed at step {start} of {settings.steps}")
    if start < settings.steps:
        _steps(task, batches(start), start, settings, progress)
    return start


def step_seed(seed: int, step: int, purpose: str = "step") -> int:
    """Returns the seed of one step, well mixed from the run's seed."""
    text = f"{seed}:{purpose}:{step}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _steps(
    task: Task, batches: Iterator[Batch], start: int, settings: LoopSettings, progress: Progress
) -> None:
    saved_at = time.monotonic()
    with (
        _metrics(settings, start) as metrics,
        progress.task(settings.title, settings.steps, done=start) as bar,
    ):
        for step in range(start, settings.steps):
            batch = next(batches)
            torch.manual_seed(step_seed(settings.seed, step))
            figures = task.step(step, batch)
            _check_finite(figures, step, settings.title)
            bar.advance(**{name: value for name, value in figures.items() if "/" not in name})
            metrics.write(step, figures)
            last = step + 1 == settings.steps
            if last or time.monotonic() - saved_at >= settings.checkpoint_s:
                _save(task, step + 1, settings)
                saved_at = time.monotonic()


def _check_finite(figures: Mapping[str, float], step: int, title: str) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise DmcpError(
                f"{title}: {name} is {value} at step {step}, the training has diverged: take a"
                " recipe with lower learning rates."
            )


def _metrics(settings: LoopSettings, start: int) -> Metrics:
    if not is_main():
        return Metrics(None)
    return Metrics(settings.metrics, start, settings.tensorboard)


def _save(task: Task, step: int, settings: LoopSettings) -> None:
    if is_main():
        Checkpoint(step, settings.token, task.tensors()).save(settings.checkpoint)
