"""What a network is to be fed with, written into every artifact of it; torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dmcp_deploy.artifact import decode, encode, well_formed
from dmcp_deploy.data.preprocessing import CROP, PAD, Preprocessing
from dmcp_deploy.units import format_input

#: Where ONNX files keep it, in their metadata, as JSON.
ONNX_KEY = "input"


@dataclass(frozen=True)
class InputRecord:
    """From a picture to the network's input, and from logits to names.

    Attributes:
        shape: (C, H, W) of the input.
        layout: Its axes: images, channels, rows, columns.
        dtype: Its numbers.
        channel_order: "RGB", or "grey": luminance.
        resizing: "crop", "squash" or "pad", see `Preprocessing`.
        resize_to: (H, W) that the picture is resized to, or by one factor until it covers it.
        interpolation: "bilinear" or "bicubic", smoothed where a picture becomes smaller.
        white: The stored value that becomes 1, as 0 becomes 0.
        mean: What is subtracted then from each channel.
        std: What it is divided by after that.
        classes: Their names, in the order of the logits.
    """

    shape: tuple[int, int, int]
    layout: str
    dtype: str
    channel_order: str
    resizing: str
    resize_to: tuple[int, int]
    interpolation: str
    white: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    @classmethod
    def make(
        cls, how: Preprocessing, shape: tuple[int, int, int], classes: tuple[str, ...]
    ) -> InputRecord:
        """Returns the record of a network of a shape, on pictures that are prepared so."""
        return cls(
            shape=shape,
            layout="NCHW",
            dtype="float32",
            channel_order="grey" if how.channels == 1 else "RGB",
            resizing=how.resizing,
            resize_to=how.covered(shape[1:]) if how.resizing == CROP else shape[1:],
            interpolation=how.interpolation,
            white=how.white,
            mean=how.mean,
            std=how.std,
            classes=classes,
        )

    @classmethod
    def from_onnx(cls, metadata: Mapping[str, str], where: str) -> InputRecord | None:
        """Returns the record in an ONNX file's metadata; None if it has none.

        Raises:
            DmcpError: It is damaged.
        """
        if ONNX_KEY not in metadata:
            return None
        with well_formed(where):
            return decode(cls, json.loads(metadata[ONNX_KEY]), ONNX_KEY)

    def to_onnx(self) -> dict[str, str]:
        """Returns the record as an ONNX file's metadata."""
        return {ONNX_KEY: json.dumps(encode(self), ensure_ascii=False)}

    def steps(self) -> list[tuple[str, str]]:
        """Returns what to do with a picture, one step after the other, in words."""
        return [
            ("colours", "grey, by luminance" if self.channel_order == "grey" else "RGB"),
            ("size", self._resizing()),
            ("values", f"divide by {self.white:g}"),
            ("normalise", f"subtract {_listed(self.mean)}, divide by {_listed(self.std)}"),
            ("input", f"{self.dtype} {self.layout}, {format_input(self.shape)} an image"),
        ]

    def _resizing(self) -> str:
        rows, columns = self.resize_to
        _, height, width = self.shape
        told = f"{height}x{width} (height x width)"
        if self.resizing == CROP:
            told = (
                f"resize by one factor until it covers {rows}x{columns} (height x width), take the"
                f" middle {height}x{width}"
            )
        elif self.resizing == PAD:
            told = f"add black at the edges up to {told} where 2 px a side are enough, else resize"
        else:
            told = f"resize to {told}"
        return f"{told}; {self.interpolation}, smoothed"


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
