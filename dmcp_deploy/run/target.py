"""The latency table of a run's target: given, kept from before, or built here."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import atomic_path, digest_file
from dmcp_deploy.bench.tables.cache import (
    built_path,
    check_quiet,
    check_table,
    copy_table,
    elsewhere,
    keep_table,
    kept_path,
    other_version,
)
from dmcp_deploy.bench.tables.table import LatencyTable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.machine.lock import locked
from dmcp_deploy.options.declare import declared
from dmcp_deploy.options.measure import PROBES, Setting
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.registry import ENGINE_RUNTIMES
from dmcp_deploy.run.tables import check_setting, probes_beside, table_build
from dmcp_deploy.rundir.directory import RunDir
from dmcp_deploy.rundir.files import TABLE
from dmcp_deploy.training.distributed import bytes_from_first, is_main, text_from_first

#: What engines are measured in that are told no precision.
_ENGINE_PRECISION = "fp16"


def target_table(
    spec: NetworkSpec,
    given: Path | None,
    asked: Mapping[str, Any],
    run: RunDir | None,
    compute: Compute,
) -> str:
    """Returns the digest of the latency table that a run reads, which then lies in the cache.

    Of several processes the first chooses or builds it, and the machines of the others get a copy.

    Args:
        spec: The full network.
        given: The table's file; None takes the one that the run has begun with, else one that
            was built here before, else builds one, which takes minutes.
        asked: Fields of `Setting` that are asked for; a table that is there may have any others.
        run: Where the run is to lie; it may have begun there.
        compute: Where to report progress.

    Raises:
        DmcpError: The table is absent, damaged or of something else; the runtime is not there.
    """
    digest = ""
    if is_main():
        path = _table_path(spec, given, asked, run, compute)
        table = LatencyTable.load(path)
        check_table(table, path, spec, asked)
        _check_version(table, path)
        digest = keep_table(path)
    digest = text_from_first(digest)
    content = bytes_from_first(kept_path(digest).read_bytes() if is_main() else b"")
    if not kept_path(digest).is_file():
        with atomic_path(kept_path(digest)) as part:
            part.write_bytes(content)
    return digest


def _table_path(
    spec: NetworkSpec,
    given: Path | None,
    asked: Mapping[str, Any],
    run: RunDir | None,
    compute: Compute,
) -> Path:
    """Returns the table's file: that of the run, the one that is given, or one built here."""
    begun = None if run is None or not run.is_begun() else run.request().table_digest
    if begun is not None and run is not None and _is_same(given, begun):
        if run.file(TABLE).is_file() and digest_file(run.file(TABLE)) == begun:
            return run.file(TABLE)
        if kept_path(begun).is_file():
            return kept_path(begun)
    return _built(spec, asked, compute) if given is None else given


def read_table(run: RunDir, digest: str) -> LatencyTable:
    """Returns the table that a run reads; its own copy is written if it has none yet.

    Raises:
        DmcpError: It is neither in the run directory nor in the cache, or it was replaced.
    """
    own = run.file(TABLE)
    if not (run.is_begun() and own.is_file()):
        return LatencyTable.load(_kept(run, digest))
    if digest_file(own) != digest:
        raise DmcpError(
            f"{own} is another latency table than the one that the search has read: put that one"
            " back, or start a new run with --table."
        )
    return LatencyTable.load(own)


def keep_beside(run: RunDir, digest: str) -> None:
    """Copies the table that a run reads into its directory, if it does not lie there."""
    if not run.file(TABLE).is_file():
        copy_table(_kept(run, digest), run.file(TABLE))


def _kept(run: RunDir, digest: str) -> Path:
    path = kept_path(digest)
    if not path.is_file():
        raise DmcpError(
            f"{run.file(TABLE)} is missing, the latency table that the search reads: put it back,"
            " or start a new run."
        )
    return path


def _is_same(given: Path | None, digest: str) -> bool:
    return given is None or not given.exists() or digest_file(given) == digest


def _built(spec: NetworkSpec, asked: Mapping[str, Any], compute: Compute) -> Path:
    """Returns the table of a setting on this machine, built if there is none."""
    setting = _setting(asked)
    check_setting(setting)
    path = built_path(spec, setting, read_environment(devices=True))
    if not path.is_file():
        with locked(path.with_suffix(".lock")):
            if not path.is_file():  # another run may have built it while this one waited
                _build(spec, setting, path, compute)
    return path


def _setting(asked: Mapping[str, Any]) -> Setting:
    unknown = asked.keys() - {item.name for item in declared(Setting)}
    if unknown:
        raise DmcpError(
            f"A target has no {min(unknown)!r}: it has runtime, precision, threads and batch."
        )
    engines = asked.get("runtime") in ENGINE_RUNTIMES
    return Setting(**{**({"precision": _ENGINE_PRECISION} if engines else {}), **asked})


def _build(spec: NetworkSpec, setting: Setting, path: Path, compute: Compute) -> None:
    from dmcp_deploy.run.probes import make_probes

    compute.progress.say(
        f"There is no latency table of {spec.model} in {setting.runtime} on this machine yet: it is"
        f" measured now, in minutes, and kept as {path}"
    )
    probes = probes_beside(path)
    make_probes(spec, probes, count=PROBES, progress=compute.progress)
    fresh = path.with_suffix(".new.json")
    table = table_build(probes, fresh, options=setting, compute=compute)
    shutil.rmtree(probes)
    try:
        check_quiet(table, "The latency table that was just measured")
    except DmcpError:
        fresh.unlink()
        raise
    fresh.replace(path)


def _check_version(table: LatencyTable, path: Path) -> None:
    """Checks that a table of this device is of the runtime's version that is here.

    Raises:
        DmcpError: It is of another.
    """
    environment = read_environment(devices=True)
    if elsewhere(table, environment) is None and (differs := other_version(table, environment)):
        raise DmcpError(
            f"The latency table {path} is of another version of this device's runtime ({differs}):"
            " leave --table out, which builds one of this version."
        )
