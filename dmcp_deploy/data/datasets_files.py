"""Data sets of picture files: the user's image folder and the ELPV solar cells."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from dmcp_deploy.data.folder_advice import LAYOUT, folder_advice, without_pictures
from dmcp_deploy.data.ranges import with_range
from dmcp_deploy.data.sources import PICTURES, FileImages
from dmcp_deploy.data.types import ImageData, digest_of
from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.text_table import few

EXTENSIONS = tuple(f".{ending}" for ending in PICTURES)

#: Folders that macOS and Synology put beside pictures, with files named like them.
_ADDED = ("__MACOSX", "@eaDir")

_ELPV_CLASSES = ("functional", "defective")
_ELPV_VAL_SHARE = 0.25


def open_folder(path: Path) -> ImageData:
    """Returns the data set in a folder with train/CLASS/ and val/CLASS/ picture files.

    Files and folders whose names begin with a dot, and those that systems add, are passed over.

    Raises:
        DmcpError: A part is missing, empty or unreadable, or train and val differ in classes.
    """
    path = path.resolve()
    try:
        classes = _checked_classes(path)
        train, val = (_split(path / split, classes) for split in ("train", "val"))
        digest = digest_of(_identity({"train": train, "val": val}))
    except OSError as err:
        raise DmcpError(f"Cannot read {err.filename or path}: {reason_of(err)}.") from err
    note = (
        f"Image folder {path}: {len(train):,} training and {len(val):,} validation pictures,"
        f" {len(classes)} classes; your own data, under your own terms."
    )
    return with_range(ImageData(f"folder:{path}", note, classes, train, val, "imagenet", digest))


def open_elpv() -> ImageData:
    """Returns the ELPV data set of solar cells from the package elpv-dataset.

    Photographs of cells of photovoltaic modules in electroluminescence; a cell counts as defective
    from a defect probability of 0.5 on. A fixed quarter of each kind and probability is `val`.
    Source: Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
    Electroluminescence Imagery", EU PVSEC 2018.

    Raises:
        DmcpError: The package is absent or damaged.
    """
    folder = _elpv_folder()
    try:
        cells = _elpv_cells(folder / "labels.csv")
        train, val = (_cell_images(folder, part) for part in _divided(cells))
        digest = digest_of(_identity({"train": train, "val": val}))
    except (OSError, ValueError) as err:
        raise DmcpError(
            f"The elpv data in {folder} is damaged ({err}):"
            " run `pip install --force-reinstall elpv-dataset`."
        ) from err
    note = (
        f"ELPV solar cells (package elpv-dataset): {len(train):,} training and {len(val):,}"
        " validation photographs, functional or defective (defect probability 0.5 and above);"
        " licence CC BY-NC-SA 4.0, not for commercial use."
    )
    return ImageData("elpv", note, _ELPV_CLASSES, train, val, "turns", digest)


def _checked_classes(path: Path) -> tuple[str, ...]:
    for split in ("train", "val"):
        if not (path / split).is_dir():
            raise DmcpError(
                f"The image folder {path} has no {split}/ in it, {folder_advice(path, split)}."
            )
    train, val = _folders(path / "train"), _folders(path / "val")
    if unreadable := [name for name in train if not name.isprintable()]:
        raise DmcpError(
            f"The class folder {unreadable[0]!r} in {path / 'train'} has a name that is not UTF-8,"
            " or not printable: rename it there and in val/."
        )
    if len(train) < 2:
        folders = f"only {train[0]!r}" if train else without_pictures(path / "train")
        raise DmcpError(
            f"The data needs at least 2 class folders in {path / 'train'}, which holds {folders}:"
            f" {LAYOUT}."
        )
    for one, other, split in ((train, val, "val"), (val, train, "train")):
        if missing := sorted(set(one) - set(other)):
            raise DmcpError(
                f"The folder {path / split} lacks the class folder"
                f" {few(list(map(repr, missing)))}: train/ and val/ must hold the same class"
                " folders."
            )
    return tuple(train)


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and _is_seen(entry.name))


def _split(folder: Path, classes: tuple[str, ...]) -> FileImages:
    pictures = [_pictures(os.path.join(folder, name)) for name in classes]
    if [] in pictures:
        empty = folder / classes[pictures.index([])]
        raise DmcpError(
            f"The class folder {empty} holds no pictures ({without_pictures(empty)}): fill it with"
            f" {', '.join(EXTENSIONS)} files, or remove the class from train/ and val/."
        )
    counts = torch.tensor([len(each) for each in pictures])
    labels = torch.repeat_interleave(torch.arange(len(classes)), counts)
    names = [path[len(str(folder)) + 1 :] for each in pictures for path in each]
    return FileImages(folder, names, labels, channels=3, centred=True)


def _pictures(folder: str) -> list[str]:
    """Returns the paths of all picture files below a folder, linked ones included, in order."""
    return [
        os.path.join(place, name)
        for place, files in sorted(_walked(folder))
        for name in sorted(files)
        if _is_seen(name) and name.lower().endswith(EXTENSIONS)
    ]


def _walked(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder below one, that one included, and its files; links may lead in circles."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(filter(_is_seen, folders)) if real not in seen else []
        if real not in seen:
            yield place, files
        seen.add(real)


def _is_seen(name: str) -> bool:
    return not name.startswith(".") and name not in _ADDED


def _identity(splits: dict[str, FileImages]) -> Iterator[str]:
    for split, source in splits.items():
        for name, label in zip(source.names, source.labels.tolist(), strict=True):
            size_bytes = os.stat(os.path.join(source.folder, name)).st_size
            yield f"{split}\0{name.replace(os.sep, '/')}\0{size_bytes}\0{label}"


class _Cell(NamedTuple):
    name: str
    probability: float
    kind: str

    @property
    def label(self) -> int:
        return int(self.probability >= 0.5)


def _elpv_folder() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise DmcpError(
            "The elpv data needs the package elpv-dataset: run `pip install dmcp-deploy[demo]`, or"
            " name other data with --data."
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _elpv_cells(table: Path) -> list[_Cell]:
    cells = []
    for line in table.read_text(encoding="utf-8").splitlines():
        name, probability, kind = line.split()
        cells.append(_Cell(name, float(probability), kind))
    if not cells:
        raise ValueError(f"{table.name} is empty")
    return cells


def _divided(cells: list[_Cell]) -> tuple[list[_Cell], list[_Cell]]:
    """Returns the cells to learn from and those to judge by, each in the table's order."""
    strata: dict[tuple[float, str], list[_Cell]] = defaultdict(list)
    for cell in cells:
        strata[cell.probability, cell.kind].append(cell)
    chosen: set[str] = set()
    for stratum in strata.values():
        # Ordered by a hash of the name: the split is the same whatever the library versions.
        mixed = sorted(stratum, key=lambda cell: hashlib.sha256(cell.name.encode()).digest())
        chosen.update(cell.name for cell in mixed[: round(_ELPV_VAL_SHARE * len(stratum))])
    train = [cell for cell in cells if cell.name not in chosen]
    return train, [cell for cell in cells if cell.name in chosen]


def _cell_images(folder: Path, cells: list[_Cell]) -> FileImages:
    labels = torch.tensor([cell.label for cell in cells], dtype=torch.int64)
    return FileImages(folder, [cell.name for cell in cells], labels, channels=1, centred=False)
