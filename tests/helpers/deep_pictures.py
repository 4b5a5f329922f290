"""Pictures of more than 8 bits, as cameras and microscopes store them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def grey(seed: int) -> np.ndarray:
    """Returns coarse random values in 0 to 1, their mean about 0.5, [40, 48]."""
    return np.kron(np.random.default_rng(seed).random((5, 6)), np.ones((8, 8)))


def colour(seed: int) -> np.ndarray:
    """Returns three of them, [40, 48, 3]."""
    return np.stack([grey(3 * seed + channel) for channel in range(3)], axis=2)


def write_folder(
    path: Path, suffix: str, write: Callable[[Path, int], object], count: int = 3
) -> Path:
    """Writes pictures of two classes by their seeds, and returns the folder."""
    seed = 0
    for split in ("train", "val"):
        for name in ("bright", "dim"):
            folder = path / split / name
            folder.mkdir(parents=True)
            for _ in range(count):
                write(folder / f"{seed}{suffix}", seed)
                seed += 1
    return path


def write_mode(mode: str) -> Callable[[Path, int], object]:
    """Returns what writes a picture of 8 bits or fewer in a mode of Pillow's."""

    def write(path: Path, seed: int) -> None:
        values = (colour(seed) * 255).astype(np.uint8)
        Image.fromarray(values).convert(mode).save(path)

    return write


def write_whole(largest: int, *, bits: int = 16) -> Callable[[Path, int], object]:
    """Returns what writes grey pictures of whole numbers up to a largest one."""

    def write(path: Path, seed: int) -> None:
        values = (grey(seed) * largest).round()
        Image.fromarray(values.astype(np.uint16 if bits == 16 else np.int32)).save(path)

    return write


def write_floating(
    scale: float, shift: float = 0.0, hole: float | None = None
) -> Callable[[Path, int], object]:
    """Returns what writes floating-point pictures; `hole` takes one pixel's place."""

    def write(path: Path, seed: int) -> None:
        values = (grey(seed) * scale + shift).astype(np.float32)
        if hole is not None:
            values[0, 0] = hole
        Image.fromarray(values, mode="F").save(path)

    return write


def write_deep_tiff(largest: int) -> Callable[[Path, int], object]:
    """Returns what writes RGB TIFFs of 16 bits a channel, which Pillow cannot write."""

    def write(path: Path, seed: int) -> None:
        values = (colour(seed) * largest).astype("<u2")
        path.write_bytes(_tiff(values))

    return write


def write_deep_png(largest: int) -> Callable[[Path, int], object]:
    """Returns what writes RGB PNGs of 16 bits a channel."""

    def write(path: Path, seed: int) -> None:
        values = (colour(seed) * largest).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        height, width, _ = values.shape
        head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts))

    return write


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _tiff(values: np.ndarray) -> bytes:
    height, width, channels = values.shape
    entries = 9
    bits_at = 8 + 2 + 12 * entries + 4
    data_at, size = bits_at + 2 * channels, values.nbytes
    short = [(256, width), (257, height), (259, 1), (262, 2), (277, channels), (278, height)]
    tags = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in short]
    tags.insert(2, struct.pack("<HHII", 258, 3, channels, bits_at))
    tags.insert(5, struct.pack("<HHII", 273, 4, 1, data_at))
    tags.append(struct.pack("<HHII", 279, 4, 1, size))
    head = b"II*\0" + struct.pack("<IH", 8, entries) + b"".join(tags) + struct.pack("<I", 0)
    return head + struct.pack("<3H", 16, 16, 16) + values.tobytes()
