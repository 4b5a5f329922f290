"""Times whole plans beside the full network, in passes; a killed measurement resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dmcp_deploy.bench.artifacts import Artifact
from dmcp_deploy.bench.lineup import random_images
from dmcp_deploy.bench.tables.measure import warm_calls
from dmcp_deploy.bench.tables.part import open_part
from dmcp_deploy.bench.tables.probes import Widths
from dmcp_deploy.bench.tables.table import PlanTimes
from dmcp_deploy.machine.affinity import pinned
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.runtimes.sampler import Clock, Sampler, make_sampler

#: A network runs for about this long in its turn.
_TURN_S = 0.05
_DIGITS = 5


@dataclass(frozen=True)
class _Turn:
    """A plan's turn in a pass."""

    number: int = field(metadata={"json": "pass"})
    plan: int


@dataclass(frozen=True)
class _Step:
    """What a plan's network took in a pass, and the full one just before."""

    ms: Sequence[float]
    reference_ms: Sequence[float]


def measure_plans(
    full: Artifact,
    plans: Sequence[Widths],
    make: Callable[[int], Artifact],
    image: tuple[int, int, int],
    setting: Setting,
    part: Path,
    *,
    passes: int,
    progress: Progress = NO_PROGRESS,
) -> tuple[PlanTimes, ...]:
    """Returns what whole plans take, each measured right after the full network in every pass.

    Each runs back to back in its turn, as on a device that runs no other. What is measured is kept
    in a file after every plan.

    Args:
        full: The full network.
        plans: What is measured.
        make: Returns what is measured of a plan, by its number.
        image: (C, H, W) of one image.
        setting: How to measure.
        part: The file that holds what is measured so far; the same call goes on from it.
        passes: Times that each plan is measured.
        progress: Told of every plan that was measured.

    Raises:
        DmcpError: The file is of another measurement, or a plan cannot be measured.
    """
    images = random_images(image, setting.batch)
    kept = open_part(part, setting, {"plans": [dict(widths) for widths in plans]}, _Turn, _Step)
    turns = [turn for number in range(passes) for turn in _shuffled(number, len(plans))]
    with (
        pinned(setting.threads),
        full.at_batch(setting.batch).open() as session,
        progress.task("whole plans", len(turns), len(kept.steps), unit="plan") as bar,
    ):
        reference = make_sampler(session, images, Clock())
        for turn in turns:
            if turn in kept.steps:
                continue
            with make(turn.plan).at_batch(setting.batch).open() as narrow:
                reference_ms = _calls_ms(reference)
                calls_ms = _calls_ms(make_sampler(narrow, images, Clock()))
            kept.add(turn, _Step(calls_ms, reference_ms))
            bar.advance()
    return tuple(
        _plan_times(widths, [kept.steps[_Turn(number, plan)] for number in range(passes)])
        for plan, widths in enumerate(plans)
    )


def _shuffled(number: int, count: int) -> list[_Turn]:
    turns = [_Turn(number, plan) for plan in range(count)]
    Random(number).shuffle(turns)
    return turns


def _calls_ms(sampler: Sampler) -> list[float]:
    calls = warm_calls(sampler, _TURN_S)
    return [round(sampler.sample_ms(), _DIGITS) for _ in range(calls)]


def _plan_times(widths: Widths, steps: Sequence[_Step]) -> PlanTimes:
    return PlanTimes(
        widths=widths,
        ms=tuple(tuple(step.ms) for step in steps),
        reference_ms=tuple(tuple(step.reference_ms) for step in steps),
    )
