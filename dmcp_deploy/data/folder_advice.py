"""What is in a folder that is not laid out as image data is: told, with what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

from dmcp_deploy.data.sources import PICTURES
from dmcp_deploy.text_table import few

LAYOUT = "put the pictures into train/CLASS/ and val/CLASS/"

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2")
_OTHER_NAMES = {
    "train": ("training", "trn", "tr"),
    "val": ("valid", "validation", "test", "testing", "eval"),
}


def folder_advice(path: Path, split: str) -> str:
    """Returns what a folder without a split holds, and what to do: "it holds ...: ..."."""
    folders, files = _content(path)
    pictures = [name for name in files if _is_picture(name)]
    archives = [name for name in files if name.lower().endswith(_ARCHIVES)]
    shards = [name for name in files if name.lower().endswith(".tar")]
    named = {name.lower(): name for name in folders}
    other = next((named[each] for each in _OTHER_NAMES[split] if each in named), None)
    classes = [name for name in folders if any(map(_is_picture, _content(path / name)[1]))]
    if other is not None:
        return f"it holds {other}/: rename that to {split}/, or link it: ln -s {other} {split}"
    inner = [name for name in folders if {"train", "val"} <= {*_content(path / name)[0]}]
    if inner:
        named_inner = few([f"{name}/" for name in inner])
        return f"it holds {named_inner} with train/ and val/: give {path / inner[0]}"
    if classes and not named.keys() & {"train", "val"}:
        return (
            f"it holds the class folders {few([f'{name}/' for name in classes])}: move them into"
            " train/, and some pictures of each class into val/CLASS/"
        )
    if len(shards) > 1:
        return f"it holds {few(shards)}: give shards as webdataset:{path}"
    if archives:
        return f"it holds {few(archives)}: unpack that, then {LAYOUT}"
    if pictures:
        return f"it holds {len(pictures):,} pictures side by side, as {pictures[0]}: {LAYOUT}"
    if folders:
        return f"it holds {few([f'{name}/' for name in folders])}: {LAYOUT}"
    return f"it holds {few(files) or 'nothing'}: {LAYOUT}"


def without_pictures(path: Path) -> str:
    """Returns what a class folder without pictures holds."""
    folders, files = _content(path)
    return few([*(f"{name}/" for name in folders), *files]) or "nothing"


def _content(path: Path) -> tuple[list[str], list[str]]:
    """Returns the names of folders and of files in a folder, hidden ones left out."""
    with os.scandir(path) as entries:
        items = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    folders = [name for name, is_folder in items if is_folder]
    return folders, [name for name, is_folder in items if not is_folder]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(tuple(f".{ending}" for ending in PICTURES))
