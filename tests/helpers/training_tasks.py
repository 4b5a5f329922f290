"""A small real training run for tests of the loop, also run as a script to be killed.

`python training_tasks.py FOLDER SLEEP_S` trains in FOLDER, pausing after every step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dmcp_deploy.data.types import Batch
from dmcp_deploy.progress import NoProgress
from dmcp_deploy.training.dense import DenseTask
from dmcp_deploy.training.loop import LoopSettings, run_loop
from dmcp_deploy.training.precision import Precision
from dmcp_deploy.training.recipe import RECIPES

STEPS = 12
FP32 = Precision(torch.device("cpu"), bf16=False)


def small_model(seed: int = 0) -> nn.Module:
    """Returns a network with batch norm and dropout: buffers and random numbers in every step."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def batches_from(start: int, steps: int = STEPS) -> Iterator[Batch]:
    """Yields batches that depend on the step alone."""
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 16, 16, generator=generator)
        yield Batch(images, torch.randint(4, (8,), generator=generator))


def settings(folder: Path, **changes: object) -> LoopSettings:
    """Returns settings with files in a folder and a checkpoint after every step."""
    plain = LoopSettings(
        title="train",
        steps=STEPS,
        seed=5,
        token="test",
        checkpoint=folder / "train.safetensors",
        metrics=folder / "train.jsonl",
        checkpoint_s=0.0,
    )
    return replace(plain, **changes)


class SlowTask(DenseTask):
    """Trains the small model, and may pause after every step."""

    def __init__(self, sleep_s: float = 0.0, seed: int = 0) -> None:
        super().__init__(small_model(seed), RECIPES["small"], STEPS, FP32)
        self._sleep_s = sleep_s

    def step(self, step: int, batch: Batch) -> Mapping[str, float]:
        """Does a step of training."""
        figures = super().step(step, batch)
        time.sleep(self._sleep_s)
        return figures

    def state(self) -> dict[str, Tensor]:
        """Returns copies of weights and momenta."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}


class Said(NoProgress):
    """Keeps the lines of news."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keeps a line."""
        self.lines.append(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_loop(SlowTask(float(sys.argv[2])), batches_from, settings(Path(sys.argv[1])))
