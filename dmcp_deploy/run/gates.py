"""Whether networks got slower: the gate over records, artifacts and run directories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.artifact import check_writable
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import merged
from dmcp_deploy.options.measure import MAX_REGRESS, BenchOptions
from dmcp_deploy.options.run import Compute
from dmcp_deploy.rundir.files import named_files, old_and_new

if TYPE_CHECKING:
    from dmcp_deploy.bench.gate import GateResult


def gate(
    *artifacts: Path | str,
    baseline: Path | str | None = None,
    against: Path | str | None = None,
    max_regress: str = MAX_REGRESS,
    save: Path | str | None = None,
    options: BenchOptions | None = None,
    compute: Compute | None = None,
    **changes: Any,
) -> GateResult:
    """Returns whether networks got slower: than a stored record says, or than an older artifact.

    Args:
        *artifacts: As for `bench`; with `against` one, where a run stands for its pruned network.
        baseline: A record that `bench` has saved.
        against: An older artifact, measured now, interleaved with the new one.
        max_regress: The slowdown that is allowed, such as "5%".
        save: Where to write the record of what was measured; a run's own is left as it is.
        options: How to measure; with `against`, `seconds` is the most, and 4 if there are none.
        compute: Where to report progress.
        **changes: Fields of `BenchOptions` that differ from `options`.

    Raises:
        NotComparableError: The baseline was measured otherwise, or elsewhere.
        DmcpError: A file is missing, or the networks cannot be compared.
    """
    from dmcp_deploy.bench import comparable, record
    from dmcp_deploy.bench.gate import GATE_SECONDS, gate_against, parse_limit
    from dmcp_deploy.run.artifacts import artifacts_of

    limit, paths = parse_limit(max_regress), [Path(artifact) for artifact in artifacts]
    if (baseline is None) == (against is None):
        raise DmcpError("A gate needs either a baseline or an older artifact to measure against.")
    if against is not None and options is None:
        changes = {"seconds": GATE_SECONDS, **changes}
    wanted, compute = merged(BenchOptions, options, **changes), compute or Compute()
    progress = compute.progress
    if save is not None:
        check_writable(Path(save), "bench")
    if against is not None:
        pair = dict(old_and_new(Path(against), paths))
        old, new = artifacts_of(pair, wanted, progress).items()
        result = gate_against(old, new, limit, wanted, progress=progress)
    else:
        stored = record.BenchRecord.load(Path(str(baseline)))
        named = artifacts_of(named_files(paths), wanted, progress)
        result = comparable.gate_baseline(named, stored, limit, wanted, progress=progress)
    if save is not None:
        result.record.save(Path(save))
    return result
