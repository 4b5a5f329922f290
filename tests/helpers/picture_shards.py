"""Small WebDataset shards, made of an image folder's files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> Path:
    """Writes samples, each a name and ending -> content, as a tar file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, members in samples:
            for ending, content in members.items():
                head = tarfile.TarInfo(f"{name}.{ending}")
                head.size = len(content)
                tar.addfile(head, io.BytesIO(content))
    return path


def make_shards(folder: Path, pictures: Path, *, per_shard: int = 5) -> Path:
    """Writes the pictures of an image folder as shards, in its order, and returns their folder."""
    for split in ("train", "val"):
        classes = sorted(path.name for path in (pictures / split).iterdir())
        files = sorted((pictures / split).glob("*/*"))
        samples = [
            (
                f"{file.parent.name}/{file.stem}",
                {
                    file.suffix[1:]: file.read_bytes(),
                    "cls": str(classes.index(file.parent.name)).encode(),
                },
            )
            for file in files
        ]
        for number, first in enumerate(range(0, len(samples), per_shard)):
            shard = folder / f"{split}-{number:03d}.tar"
            write_shard(shard, samples[first : first + per_shard])
    return folder
