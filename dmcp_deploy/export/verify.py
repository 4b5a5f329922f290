"""The largest difference between two runtimes' outputs for the same input."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError


@dataclass(frozen=True)
class Parity:
    """How far two outputs for the same batch are apart.

    Attributes:
        max_abs: Largest absolute difference.
        max_rel: `max_abs` divided by the reference's largest magnitude over the whole batch.
        top1_agreement: Share of the batch on which both have the same largest logit, in [0, 1].
    """

    max_abs: float
    max_rel: float
    top1_agreement: float

    def to_json(self) -> dict[str, float]:
        """Returns the figures as JSON values."""
        return asdict(self)


def compare_outputs(reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> Parity:
    """Returns how far an output is from the reference's.

    Args:
        reference: [N, classes], or [N, classes, ...].
        other: Of the same shape.

    Raises:
        DmcpError: The shapes differ, hold no batch of logits, or a value is NaN or infinite.
    """
    _check_comparable(reference, other)
    truth, found = reference.astype(np.float64), other.astype(np.float64)
    max_abs = float(np.abs(truth - found).max())
    # An all-zero reference leaves nothing to be relative to: any difference then counts as huge.
    scale = max(float(np.abs(truth).max()), float(np.finfo(np.float32).tiny))
    agreement = float((truth.argmax(axis=1) == found.argmax(axis=1)).mean())
    return Parity(max_abs, max_abs / scale, agreement)


def require_parity(parity: Parity, tolerance: float, what: str) -> None:
    """Checks that the relative difference is within a tolerance.

    Args:
        parity: The figures.
        tolerance: The largest `max_rel` that is accepted.
        what: The two that were compared, for the message, such as "ONNX Runtime and torch".

    Raises:
        DmcpError: The difference is larger.
    """
    if parity.max_rel <= tolerance:
        return
    raise DmcpError(
        f"{what} disagree: the largest difference is {parity.max_rel:.3g} relative"
        f" ({parity.max_abs:.3g} absolute), the tolerance is {tolerance:g}, and top-1 agrees on"
        f" {parity.top1_agreement:.1%} of the inputs."
    )


def _check_comparable(reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> None:
    if reference.shape != other.shape:
        raise DmcpError(
            f"Outputs of shape {list(reference.shape)} and {list(other.shape)} cannot be compared."
        )
    if reference.ndim < 2 or reference.size == 0:
        raise DmcpError(
            f"Outputs of shape {list(reference.shape)} hold no logits: [N, classes] is needed."
        )
    for name, output in (("reference", reference), ("other", other)):
        bad = output.size - int(np.isfinite(output).sum())
        if bad:
            raise DmcpError(
                f"The {name} output has {bad} of {output.size} values that are NaN or infinite:"
                " the network's weights or its input are broken."
            )
