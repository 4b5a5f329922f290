"""Whether an engine is one that runs here: its ONNX file, its TensorRT, its GPU."""

from __future__ import annotations

from pathlib import Path

from dmcp_deploy.artifact import digest_files
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import Device
from dmcp_deploy.runtimes.engine_record import EngineRecord
from dmcp_deploy.runtimes.trt_flavours import TURING, find_flavour


def check_onnx_unchanged(path: Path, record: EngineRecord) -> None:
    """Checks that the ONNX file an engine came from, if it lies beside it, is still the same.

    Raises:
        DmcpError: It has changed.
    """
    sources = source_files(path, record)
    # One of the two folders may hold another network of that name, and the other the right one.
    if sources and all(digest_files(files) != record.onnx_digest for files in sources):
        raise DmcpError(
            f"{sources[0][0]} has changed since {path} was built from it: build the engine again."
        )


def source_files(path: Path, record: EngineRecord) -> list[list[Path]]:
    """Returns what may be the ONNX file of an engine, with its weights: beside it, or above."""
    folders = path.absolute().parents[:2]
    groups = [[folder / name for name in (record.onnx, *record.onnx_weights)] for folder in folders]
    return [group for group in groups if all(file.is_file() for file in group)]


def source_onnx(path: Path) -> Path:
    """Returns the ONNX file that an engine was built from.

    Raises:
        DmcpError: It lies neither beside the engine nor in the folder above, or the engine is
            missing or damaged.
    """
    record = EngineRecord.load(path)
    for files in source_files(path, record):
        if digest_files(files) == record.onnx_digest:
            return Path(files[0])
    raise DmcpError(
        f"The layers of {path} are named in {record.onnx}, from which it was built, and that lies"
        " neither beside it nor in the folder above: copy it there."
    )


def check_version(path: Path, record: EngineRecord, version: str) -> None:
    """Checks that an engine meets the version of TensorRT that built it.

    Raises:
        DmcpError: It was built by another one.
    """
    if record.runtime_version != version:
        raise DmcpError(
            f"{path} was built by {record.runtime} {record.runtime_version}, and {version} is"
            " installed here: engines run in the version that built them; build it again."
        )


def check_gpu(path: Path, record: EngineRecord, device: Device) -> None:
    """Checks that an engine was built for a GPU.

    Raises:
        DmcpError: It was built on, or for, another one.
    """
    here, capability = device.name, device.compute_capability
    built_on = record.gpu
    if built_on is not None and built_on["name"] != here:
        raise DmcpError(
            f"{path} was built on {built_on['name']}, and this is {here}: an engine runs on the"
            " GPU that built it; build it again from the ONNX file."
        )
    if built_on is not None:
        return
    arch = f"sm{capability[0]}{capability[1]}"
    supported = find_flavour(record.runtime).targets
    if arch not in supported:
        raise DmcpError(
            f"{record.runtime} runs on {', '.join(supported)}, and {here} is {arch}: build the"
            " engine there with --runtime tensorrt."
        )
    if arch not in (record.targets or set(supported) - {TURING}):
        built_for = ", ".join(record.targets) or "Ampere and newer"
        raise DmcpError(
            f"{path} was built for {built_for}, and {here} is {arch}: build it with"
            f" --gpu-arch {arch}."
        )
