"""Images in batches that an ONNX file takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.onnx_file import OnnxFile

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
    size = file.batch or OPEN_BATCH
    missing = -len(images) % size if file.batch else 0
    # `resize` repeats the images as often as the size asks for.
    filler = np.resize(images, (missing, *images.shape[1:]))
    whole = np.ascontiguousarray(np.concatenate([images, filler]) if missing else images)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def _check_images(file: OnnxFile, images: npt.NDArray[np.float32]) -> None:
    expected = file.input_shape[1:]
    fits = images.ndim == 4 and all(
        size in (None, found) for size, found in zip(expected, images.shape[1:], strict=True)
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
