"""How far two runtimes' outputs for the same input are apart, and what a precision allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError

#: The signal-to-noise ratio of equal outputs: infinite, but JSON has no such number.
LARGEST_SNR_DB = 200.0


class FidelityError(DmcpError):
    """A network in a lower precision is too far from the trained one."""


@dataclass(frozen=True)
class Parity:
    """How far two outputs for the same batch are apart.

    Attributes:
        max_abs: Largest absolute difference.
        max_rel: `max_abs` divided by the reference's largest magnitude over the whole batch.
        top1_agreement: Share of the batch on which both have the same largest logit, in [0, 1].
        snr_db: Signal-to-noise ratio: power of the reference over power of the difference, over
            the whole batch, in decibels from -200 to 200.
    """

    max_abs: float
    max_rel: float
    top1_agreement: float
    snr_db: float

    def to_json(self) -> dict[str, float]:
        """Returns the figures as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Tolerance:
    """What outputs in a lower precision must keep of those in FP32.

    Attributes:
        max_rel: The largest difference, relative to the reference's largest magnitude.
        least_snr_db: The lowest signal-to-noise ratio, in decibels.
        least_top1_agreement: The lowest share of images with the same largest logit, in [0, 1].
    """

    max_rel: float
    least_snr_db: float
    least_top1_agreement: float


#: What a sound network keeps, with room; figures of trained networks stand in docs/engines.md. The
#: limits for FP32, BF16 and FP8 are judgement.
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-4, 80.0, 0.99),
    "fp16": Tolerance(0.05, 35.0, 0.97),
    "bf16": Tolerance(0.2, 20.0, 0.93),
    "int8": Tolerance(0.7, 10.0, 0.85),
    "fp8": Tolerance(0.7, 10.0, 0.85),
}


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
    return Parity(max_abs, max_abs / scale, agreement, _snr_db(truth, found))


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


def flat_images(shape: Sequence[int]) -> list[npt.NDArray[np.float32]]:
    """Returns batches of images [N, C, H, W] without any contrast: black ones and grey ones."""
    return [np.full(tuple(shape), value, dtype=np.float32) for value in (0.0, 0.5)]


def require_finite(
    reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic], what: str
) -> None:
    """Checks that outputs for flat images are finite wherever the reference's are.

    They are what an epsilon is for that a conversion may have lost: the deviation or the norm of
    a flat image is 0.

    Raises:
        DmcpError: One is not.
    """
    lost = int((np.isfinite(reference) & ~np.isfinite(other)).sum())
    if lost:
        raise DmcpError(
            f"{what} disagree on images of one colour: {lost} of {reference.size} values are NaN"
            " or infinite in the second alone, as where a small epsilon is lost; raise the"
            " network's epsilons to 1e-5 or more, or choose another --precision."
        )


def is_faithful(parity: Parity, precision: str) -> bool:
    """Returns whether outputs in a precision are within `TOLERANCES` of the reference."""
    return not _missed(parity, precision)


def require_fidelity(parity: Parity, precision: str, what: str) -> None:
    """Checks that outputs in a precision are within `TOLERANCES` of the reference in FP32.

    Args:
        parity: The figures, over real images: noise has other activations.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        what: The two that were compared, for the message, such as "the int8 and the fp32 network".

    Raises:
        FidelityError: A figure is beyond the tolerance.
        DmcpError: The precision has none.
    """
    missed = _missed(parity, precision)
    if not missed:
        return
    raise FidelityError(
        f"{what} disagree: the signal-to-noise ratio is {parity.snr_db:.1f} dB, top-1 agrees on"
        f" {parity.top1_agreement:.1%} of the inputs and the largest difference is"
        f" {parity.max_rel:.3g} relative; {precision} is allowed {' and '.join(missed)}."
    )


def _missed(parity: Parity, precision: str) -> list[str]:
    """Returns the limits that are not kept, in words."""
    allowed = TOLERANCES.get(precision)
    if allowed is None:
        raise DmcpError(
            f"The precision is {precision!r} and must be one of {', '.join(TOLERANCES)}."
        )
    checks = (
        (parity.snr_db >= allowed.least_snr_db, f"{allowed.least_snr_db:g} dB at least"),
        (
            parity.top1_agreement >= allowed.least_top1_agreement,
            f"top-1 the same on {allowed.least_top1_agreement:.0%} at least",
        ),
        (
            parity.max_rel <= allowed.max_rel,
            f"a largest difference of {allowed.max_rel:g} relative",
        ),
    )
    return [limit for passed, limit in checks if not passed]


def _snr_db(truth: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    signal, noise = float(np.square(truth).mean()), float(np.square(truth - found).mean())
    if noise == 0:
        return LARGEST_SNR_DB
    # An all-zero reference has no signal: any difference then counts as the worst.
    decibels = 10 * math.log10(signal / noise) if signal / noise > 0 else -LARGEST_SNR_DB
    return min(max(decibels, -LARGEST_SNR_DB), LARGEST_SNR_DB)


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
