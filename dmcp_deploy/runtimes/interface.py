"""What every runtime asks of a network and of its images, and how it says no."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dmcp_deploy.artifact import near_file
from dmcp_deploy.errors import DmcpError

#: (N, C, H, W); None where the file leaves the axis open.
ImageShape = tuple[int | None, int | None, int | None, int | None]


def check_threads(threads: int) -> None:
    """Checks a number of threads.

    Raises:
        DmcpError: It is negative.
    """
    if threads < 0:
        raise DmcpError(
            f"The number of threads is {threads} and must be 0 (library's own) or more."
        )


def check_onnx_file(path: Path) -> None:
    """Checks that there is a file.

    Raises:
        DmcpError: There is none.
    """
    if not path.is_file():
        raise DmcpError(f"There is no ONNX file {path}{near_file(path)}")


def image_shape(sizes: Sequence[object]) -> ImageShape:
    """Returns an input's four sizes as (N, C, H, W); what is no number is open."""
    batch, channels, height, width = (size if isinstance(size, int) else None for size in sizes)
    return batch, channels, height, width


def unloadable(path: Path, reason: str) -> DmcpError:
    """Returns what to say of a file that a runtime does not read."""
    reason = reason.rpartition(" : ")[2]  # behind ONNX Runtime's numbers
    remedy = "." if path.suffix == ".onnx" else "; give an ONNX file, an engine or a run."
    return DmcpError(f"{path} cannot be loaded as ONNX: {reason}{remedy}")


def other_interface(path: Path, inputs: Sequence[str]) -> DmcpError:
    """Returns what to say of a network that takes no images.

    Args:
        path: Its file.
        inputs: Each input's name, type and shape.
    """
    return DmcpError(
        f"{path} takes {', '.join(inputs) or 'nothing'}, where one float32 input [N, C, H, W] and"
        " an output are needed."
    )


def misfit(
    path: Path, images: npt.NDArray[np.generic], wanted: Sequence[object], reason: str
) -> DmcpError:
    """Returns what to say of images that a network fails on.

    Args:
        path: The network's file.
        images: The images.
        wanted: The sizes of its input.
        reason: The runtime's own words.
    """
    return DmcpError(
        f"{path} does not run on {images.dtype} images {list(images.shape)}"
        f" (its input is {list(wanted)}): {reason}."
    )
