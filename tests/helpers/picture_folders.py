"""Small image folders and IDX files, for tests that need data with a flaw in it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def make_picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Returns a smooth colour picture of (width, height) that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def make_folder(
    path: Path,
    *,
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    train: int = 4,
    val: int = 2,
    suffix: str = ".png",
) -> Path:
    """Writes `train` and `val` pictures for each class below `path`, and returns it."""
    seed = 0
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            folder = path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                make_picture(seed, (40 + seed % 7, 36 + seed % 5)).save(
                    folder / f"{number:03d}{suffix}"
                )
                seed += 1
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cuts a file's end off, and returns its path."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def make_idx(path: Path, values: np.ndarray, *, magic: int | None = None) -> Path:
    """Writes uint8 values as a gzipped IDX file, and returns its path."""
    head = struct.pack(">I", 0x800 + values.ndim if magic is None else magic)
    shape = struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(head + shape + values.astype(np.uint8).tobytes()))
    return path
