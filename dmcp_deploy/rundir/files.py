"""What is measured: artifacts and run directories -> files, each under a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmcp_deploy.errors import DmcpError

ORIGINAL, PRUNED = "original", "pruned"

#: A run's own copy of the latency table that its search reads.
TABLE = "table.json"


def named_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Returns name -> file, as `bench` names what it records."""
    alone = len(paths) == 1 and paths[0].is_dir()
    return run_files(paths[0]) if alone else artifact_files(paths)


def old_and_new(old: Path, new: Sequence[Path]) -> list[tuple[str, Path]]:
    """Returns name and file of the old network, then of the new one."""
    if len(new) != 1:
        raise DmcpError(f"--against compares one artifact with an older one, not {len(new)}.")
    short = [path.name if path.is_dir() else path.stem for path in (old, new[0])]
    names = short if short[0] != short[1] else [f"{short[0]} (old)", short[1]]
    files = [run_files(path)[PRUNED] if path.is_dir() else path for path in (old, new[0])]
    return list(zip(names, files, strict=True))


def artifact_files(artifacts: Sequence[Path]) -> dict[str, Path]:
    """Returns name -> file; a run directory brings its original and its pruned network."""
    files: dict[str, Path] = {}
    for artifact in artifacts:
        if not artifact.is_dir():
            files[_free_name(artifact.stem, str(artifact), files)] = artifact
            continue
        for name, path in run_files(artifact).items():
            files[_free_name(f"{artifact.name}/{name}", f"{artifact}/{name}", files)] = path
    return files


def run_files(folder: Path) -> dict[str, Path]:
    """Returns a run's original and pruned ONNX file.

    Raises:
        DmcpError: They are not there yet.
    """
    for name in ("model.onnx", "original.onnx"):
        if not (folder / name).exists():
            raise DmcpError(f"{folder} has no {name} yet: run export first.")
    return {ORIGINAL: folder / "original.onnx", PRUNED: folder / "model.onnx"}


def _free_name(short: str, long: str, taken: Mapping[str, Path]) -> str:
    numbered = (f"{long} ({number})" for number in range(2, len(taken) + 3))
    return next(name for name in (short, long, *numbered) if name not in taken)
