"""Images in batches that an ONNX file takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.file import OnnxFile

#: For files that take any batch size: a few, as every activation of them may be held in memory.
OPEN_BATCH = 4


def image_batches(file: OnnxFile, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Returns images in batches of the file's own size, or of 4 where it leaves the size open.

    The last batch of a file with a fixed size is filled up with the first images.

    Args:
        file: What the images are for.
        images: [N, C, H, W], float32, N of 1 or more.

    Raises:
        DmcpError: The images do not fit the file's input.
    """
    _check_images(file, images)
    if file.batch:
        return filled_batches(images, file.batch)
    images = np.ascontiguousarray(images)
    return [images[start : start + OPEN_BATCH] for start in range(0, len(images), OPEN_BATCH)]


def filled_batches(images: npt.NDArray[np.float32], size: int) -> list[npt.NDArray[np.float32]]:
    """Returns images in batches of one size; the last is filled up with the first images.

    Args:
        images: [N, C, H, W], float32, N of 1 or more.
        size: Images in a batch.
    """
    # `resize` repeats the images as often as the size asks for.
    count = len(images) + -len(images) % size
    filled = np.resize(images, (count, *images.shape[1:]))
    return [filled[start : start + size] for start in range(0, count, size)]


def _check_images(file: OnnxFile, images: npt.NDArray[np.float32]) -> None:
    expected = file.input_shape[1:]
    fits = images.ndim == 4 and all(
        size in (None, given) for size, given in zip(expected, images.shape[1:], strict=True)
    )
    if not fits or images.dtype != np.float32 or images.size == 0:
        wanted = ", ".join(str(size or "any") for size in expected)
        raise DmcpError(
            f"The images are {images.dtype} {list(images.shape)}, and {file.path} takes float32"
            f" images [N, {wanted}]: prepare them as for validation."
        )
    if not np.isfinite(images).all():
        raise DmcpError(
            "The images hold values that are NaN or infinite: they must be finite numbers."
        )
