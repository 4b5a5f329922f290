"""Latency tables in the cache folder: those built here, found again, and those that runs use."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import atomic_path, digest_file, encode
from dmcp_deploy.bench.tables.table import DEVICE, LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.folders import table_cache
from dmcp_deploy.options.measure import Setting
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.registry import BENCH_RUNTIMES, ENGINE_RUNTIMES
from dmcp_deploy.units import format_input

#: Parts of the environment beside the device that a table depends on: the clocks' settings.
_CLOCKS = ("governor", "power_mode", "cpu_quota")

#: Half the range over the passes, as a share of a call's time, in the middle probe: beyond it a
#: table tells more of its neighbours on the machine than of the network.
_LARGEST_SPREAD = 0.25


def built_path(spec: NetworkSpec, setting: Setting, environment: Mapping[str, Any]) -> Path:
    """Returns where the table of a network lies that is built on this machine.

    Args:
        spec: The network.
        setting: How it is measured.
        environment: This machine, with its devices (see `read_environment`).
    """
    key = {
        "network": encode(_comparable(spec)),
        "setting": asdict(setting),
        "device": {name: environment.get(name) for name in (*DEVICE, *_CLOCKS)},
        "versions": _versions(setting, environment),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    model = "".join(c if c.isalnum() or c in "-_" else "-" for c in spec.model)
    return table_cache() / f"{model}-{setting.runtime}-{digest[:16]}.json"


def keep_table(path: Path) -> str:
    """Copies a table into the cache folder under its digest, which is returned."""
    digest = digest_file(path)
    place = kept_path(digest)
    if not place.is_file() or digest_file(place) != digest:
        copy_table(path, place)
    return digest


def kept_path(digest: str) -> Path:
    """Returns where the table of a digest is kept."""
    return table_cache() / "used" / f"{digest.rpartition(':')[2]}.json"


def copy_table(path: Path, place: Path) -> None:
    """Copies a table's file, byte by byte, in one step."""
    with atomic_path(place) as part:
        shutil.copyfile(path, part)


def check_table(
    table: LatencyTable, path: Path, spec: NetworkSpec, asked: Mapping[str, Any]
) -> None:
    """Checks that a table tells the time that is asked for.

    Args:
        table: The table.
        path: Its file, for the message.
        spec: The full network.
        asked: Fields of `Setting` that are asked for; the table may have any others.

    Raises:
        DmcpError: It is of another network, setting, or version of the runtime on this device,
            or its times are too noisy.
    """
    if _comparable(table.network) != _comparable(spec):
        raise DmcpError(
            f"The latency table {path} is of {_describe(table.network)}, and the budget is for"
            f" {_describe(spec)}: build a table of that network."
        )
    for name, value in asked.items():
        measured = getattr(table.setting, name)
        if measured != value:
            raise DmcpError(
                f"The latency table {path} was measured with {name} {measured}, and {value} is"
                f" asked for: leave that out, or build a table with it."
            )
    check_quiet(table, f"The latency table {path}")


def check_quiet(table: LatencyTable, what: str) -> None:
    """Checks that the probes of a table took about as long in every pass.

    Raises:
        DmcpError: They did not.
    """
    pairs = zip(table.whole.spread_ms, table.whole.ms, strict=True)
    spread = statistics.median(spread / ms for spread, ms in pairs)
    if spread > _LARGEST_SPREAD:
        raise DmcpError(
            f"{what} is too noisy: a probe network's time differs by +-{spread:.0%} from pass to"
            f" pass, and {_LARGEST_SPREAD:.0%} is the most; measure again on a quiet machine."
        )


def elsewhere(table: LatencyTable, environment: Mapping[str, Any]) -> str | None:
    """Returns why the target of a table cannot be measured here, in words; None if it can.

    Args:
        table: The table.
        environment: This machine, with its devices (see `read_environment`).
    """
    on_gpu = table.setting.runtime in ENGINE_RUNTIMES
    names = ("machine", "board", "gpus") if on_gpu else ("machine", "cpu", "cores", "board")
    for name in names:
        theirs, ours = _known(table.environment, name), _known(environment, name)
        if theirs != ours:
            return f"{name} {theirs} there, {ours} here"
    if not _versions(table.setting, environment):
        return f"{table.setting.runtime} is not installed here"
    return None


def other_version(table: LatencyTable, environment: Mapping[str, Any]) -> str | None:
    """Returns how the version of a table's runtime differs from that here; None if it is the same.

    What is not installed here does not differ.
    """
    theirs = _versions(table.setting, table.environment)
    ours = _versions(table.setting, environment)
    for name in theirs.keys() & ours.keys():
        if theirs[name] != ours[name]:
            return f"{name} {theirs[name]} there, {ours[name]} here"
    return None


def _known(environment: Mapping[str, Any], name: str) -> Any:
    value = environment.get(name)
    if name == "gpus" and isinstance(value, list | tuple):
        return [gpu.get("name") for gpu in value[:1]]
    return value


def _versions(setting: Setting, environment: Mapping[str, Any]) -> dict[str, str]:
    """Returns the versions of the libraries that are the runtime."""
    libraries = environment.get("libraries") or {}
    return {name: text for name, text in libraries.items() if _runtime(name) == setting.runtime}


def _runtime(library: str) -> str:
    """Returns the runtime that a library is, as "onnxruntime-gpu" is; "" if it is none."""
    names = (name for name in BENCH_RUNTIMES if f"{library}-".startswith(f"{name}-"))
    return max(names, key=len, default="")


def _comparable(spec: NetworkSpec) -> NetworkSpec:
    """Returns a network without what costs no time."""
    return replace(spec, transform_input=False)


def _describe(spec: NetworkSpec) -> str:
    size = format_input(spec.input_shape)
    return f"{spec.model} x{spec.width_mult:g} for {spec.num_classes} classes at {size}"
