"""One FP32 ONNX -> the same network in another precision, and how far that is from it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.export.image_batches import filled_batches
from dmcp_deploy.export.lower_precision import overflowing_activations, to_half
from dmcp_deploy.export.mend import mend_int8, sample_judge
from dmcp_deploy.export.quantize import check_calibration, quantize_fp8, quantize_int8
from dmcp_deploy.export.verify import (
    FidelityError,
    compare_outputs,
    flat_images,
    require_fidelity,
    require_finite,
)
from dmcp_deploy.progress import Progress
from dmcp_deploy.registry import PRECISIONS, choose
from dmcp_deploy.runtimes.onnxruntime import OnnxSession

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Images = npt.NDArray[np.float32]
    Labels = npt.NDArray[np.int64]

#: What needs images to be made.
CALIBRATED = ("int8", "fp8")
#: What ONNX Runtime has no kernels for on a CPU.
UNRUNNABLE = ("bf16", "fp8")


@dataclass(frozen=True)
class Evidence:
    """Real images to convert by and to judge by; None where there are none.

    Attributes:
        calibration: Training images, float32 [N, C, H, W], as the network takes them.
        validation: Calls give batches of images and their labels, always the same.
        total: Batches that `validation` gives.
        reference: The trained network's own logits on all of them, [M, classes].
        method: How ranges are found in calibration, one of `quantize.METHODS`; for INT8.
    """

    calibration: Images
    validation: Callable[[], Iterable[tuple[Images, Labels]]] | None = None
    total: int = 0
    reference: npt.NDArray[np.float32] | None = None
    method: str = "minmax"


def check_precisions(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the precisions, each once, in the order given.

    Raises:
        DmcpError: One is unknown, or there is none.
    """
    found = tuple(dict.fromkeys(choose("--precision", name, PRECISIONS) for name in names))
    if not found:
        raise DmcpError(f"--precision is empty: choose of {', '.join(PRECISIONS)}.")
    return found


def check_request(precisions: Collection[str], calibration: int) -> None:
    """Checks the number of images that a run's network is converted with.

    Raises:
        DmcpError: It is none, or too small for a precision that is calibrated on them.
    """
    if set(precisions) & set(CALIBRATED):
        check_calibration(calibration)
    if precisions and calibration < 1:
        raise DmcpError(f"--calibration {calibration} must be 1 or more.")


def precision_path(source: Path, folder: Path, precision: str) -> Path:
    """Returns where a network in a precision lies: FP32 is the source itself."""
    return source if precision == "fp32" else folder / f"{source.stem}.{precision}.onnx"


def convert(source: Path, path: Path, precision: str, evidence: Evidence | None) -> dict[str, Any]:
    """Writes the network in a precision; returns figures of the conversion.

    Args:
        source: The FP32 ONNX file.
        path: The file to write; for "fp32" nothing is written.
        precision: One of `PRECISIONS`.
        evidence: Images; "int8" and "fp8" need them, "fp16" is checked for overflow by them.

    Raises:
        DmcpError: The file is not FP32, images are missing, or values overflow FP16.
    """
    if precision == "fp32":
        return {}
    check_evidence(source, precision, evidence)
    figures: dict[str, Any] = {}
    if precision == "fp16" and evidence is not None:
        figures["overflow"] = _checked_range(source, evidence)
    figures |= rewrite(source, path, precision, evidence)
    if precision not in (*CALIBRATED, *UNRUNNABLE):
        _check_flat(source, path, precision)
    return figures


def rewrite(source: Path, path: Path, precision: str, evidence: Evidence | None) -> dict[str, Any]:
    """Writes the network in a precision, unchecked; returns figures of it (see `convert`)."""
    if precision in CALIBRATED:
        assert evidence is not None
        return _quantized(source, path, precision, evidence)
    report = to_half(source, path, precision)
    kept = [asdict(node) for node in report.kept]
    return {
        "converted": len(report.converted),
        "kept": kept,
        "flushed_weights": report.flushed_weights,
        "raised": dict(report.raised),
    }


def check_evidence(source: Path, precision: str, evidence: Evidence | None) -> None:
    """Checks that there are the images that a precision is calibrated on.

    Raises:
        DmcpError: There are none, or too few.
    """
    if precision not in CALIBRATED:
        return
    if evidence is None:
        raise DmcpError(
            f"--precision {precision} is calibrated on images, and there are none beside"
            f" {source}: give --calibration-data FILE.npy, or the run directory."
        )
    check_calibration(len(evidence.calibration))


def judge(path: Path, precision: str, evidence: Evidence, progress: Progress) -> dict[str, Any]:
    """Returns a converted network's accuracy and its distance from the trained network.

    Both are computed in ONNX Runtime on the CPU, and alike on every processor: the network is to
    run elsewhere. For what ONNX Runtime cannot run the reason is returned.

    Raises:
        DmcpError: The network is further away than the precision's tolerance.
    """
    if precision in UNRUNNABLE:
        return {"unchecked": f"ONNX Runtime has no {precision} convolution on a CPU"}
    assert evidence.validation is not None
    assert evidence.reference is not None
    import numpy as np

    outputs, labels = [], []
    with (
        OnnxSession(path, exact=True) as session,
        progress.task(f"evaluate {precision}", evidence.total, unit="batch") as bar,
    ):
        for images, wanted in evidence.validation():
            outputs.append(_logits(session, images))
            labels.append(wanted)
            bar.advance()
    logits = np.concatenate(outputs)
    parity = compare_outputs(evidence.reference, logits)
    require_fidelity(parity, precision, f"The network in {precision} and the trained one")
    right = logits.argmax(axis=1) == np.concatenate(labels)
    return {"parity": parity.to_json(), "top1": float(right.mean()), "images": len(right)}


def convert_judged(
    source: Path, path: Path, precision: str, evidence: Evidence, progress: Progress
) -> dict[str, Any]:
    """Writes the network in a precision and returns figures of it, accuracy and distance included.

    INT8 that misses its tolerance keeps the layers at fault in FP32, where they are few.

    Raises:
        DmcpError: As `convert` and `judge`.
    """
    figures = convert(source, path, precision, evidence)
    try:
        return figures | judge(path, precision, evidence, progress)
    except FidelityError as err:
        if precision != "int8":
            raise
        figures |= _mended(source, path, evidence, err)
    progress.say(
        f"INT8 misses its tolerance but for {', '.join(figures['mended'])}, which stay in FP32:"
        f" {figures['mended_macs_share']:.1%} of the multiply-adds"
    )
    return figures | judge(path, precision, evidence, progress)


def read_images(path: Path, method: str = "minmax") -> Evidence:
    """Returns the calibration images in a NumPy file.

    Raises:
        DmcpError: The file is no array of float32 images [N, C, H, W].
    """
    import numpy as np

    try:
        images = np.load(path, allow_pickle=False)
    except FileNotFoundError as err:
        raise DmcpError(f"There is no file of calibration images {path}.") from err
    except OSError as err:
        raise DmcpError(f"Cannot read {path}: {reason_of(err)}.") from err
    except (ValueError, EOFError, zipfile.BadZipFile) as err:
        raise DmcpError(f"{path} is no array as numpy.save writes it (.npy).") from err
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.dtype != np.float32:
        found = f"{images.dtype} {list(images.shape)}" if hasattr(images, "dtype") else "an archive"
        raise DmcpError(
            f"{path} holds {found}, where calibration needs float32 images [N, C, H, W],"
            " normalised as in training."
        )
    return Evidence(images, method=method)


def _quantized(source: Path, path: Path, precision: str, evidence: Evidence) -> dict[str, Any]:
    if precision == "fp8":
        report = quantize_fp8(source, path, evidence.calibration)
    else:
        report = quantize_int8(source, path, evidence.calibration, "tensorrt", evidence.method)
    return {
        "calibration_images": report.calibration_images,
        "method": report.method,
        "quantized": len(report.quantized),
        "kept": list(report.kept),
    }


def _mended(source: Path, path: Path, evidence: Evidence, err: FidelityError) -> dict[str, Any]:
    def run(file: Path, images: Images) -> Images:
        with OnnxSession(file, exact=True) as session:
            return _logits(session, images)

    assert evidence.validation is not None
    judged = sample_judge(run, evidence.validation, evidence.reference)
    return mend_int8(source, path, judged, evidence.method, str(err))


def _checked_range(source: Path, evidence: Evidence) -> dict[str, float]:
    over = overflowing_activations(source, evidence.calibration)
    if over:
        name, value = max(over.items(), key=lambda item: item[1])
        raise DmcpError(
            f"{source} cannot be computed in fp16: {len(over)} activations exceed 65504 on real"
            f" images (the largest is {value:.3g}, in {name}); use --precision bf16 or fp32."
        )
    return over


def _check_flat(source: Path, path: Path, precision: str) -> None:
    """Checks that images without contrast have finite logits in a precision as in FP32."""
    with OnnxSession(source, exact=True) as exact, OnnxSession(path, exact=True) as converted:
        for flat in flat_images([size or 1 for size in exact.input_shape]):
            what = f"The network in fp32 and in {precision}"
            require_finite(exact.run(flat), converted.run(flat), what)


def _logits(session: OnnxSession, images: Images) -> npt.NDArray[np.float32]:
    """Returns the logits of a batch; a file of a fixed batch gets its images in that many."""
    import numpy as np

    fixed = session.input_shape[0]
    if fixed is None:
        return session.run(images)
    parts = [session.run(batch) for batch in filled_batches(images, fixed)]
    return np.concatenate(parts)[: len(images)]
