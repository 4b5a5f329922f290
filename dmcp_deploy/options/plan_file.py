"""Options of commands on a plan file by itself, without a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmcp_deploy.options.declare import option


@dataclass(frozen=True)
class PlanWeights:
    """The weights of a plan's network.

    Attributes:
        weights: A file of weights of the full network or of the pruned one; None for random ones.
    """

    weights: str | None = option(
        None, help="Of a plan file: weights of its full or pruned network; random if not given."
    )


@dataclass(frozen=True)
class PlanOutput(PlanWeights):
    """What is made of a plan, and where it goes.

    Attributes:
        out: The file to write; by default beside the plan.
    """

    out: Path | None = option(None, help="Of a plan file: what to write.")


@dataclass(frozen=True)
class PlanExport(PlanOutput):
    """What is exported of a plan.

    Attributes:
        calibration_data: Images to calibrate INT8 and FP8 on, float32 [N, C, H, W], as .npy.
    """

    calibration_data: Path | None = option(
        None, help="Of a plan file: images for INT8 and FP8 (.npy)."
    )
