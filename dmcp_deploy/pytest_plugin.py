"""The pytest fixture `latency_gate`: a test fails where a network got slower than allowed.

pytest loads this module wherever the package is installed, so it imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from dmcp_deploy.bench.gate import GateResult, GateRow

_SKIP = "--latency-skip-incomparable"
_LOCK = "dmcp-deploy-latency.lock"


class LatencyWarning(pytest.PytestWarning):
    """A latency that says less than it might."""


class LatencyGate(Protocol):
    """What the fixture `latency_gate` gives to a test."""

    def __call__(
        self,
        artifact: Path | str,
        *,
        baseline: Path | str | None = None,
        against: Path | str | None = None,
        max_regress: str = "5%",
        batch: int = 1,
        threads: int = 1,
        seconds: float | None = None,
        runtime: str = "onnxruntime",
        strict: bool = False,
    ) -> GateResult:
        """Returns what the gate found, unless it fails the test.

        Args:
            artifact: ONNX file, engine or run directory; paths start at pytest's rootdir.
            baseline: A record that `dmcp-deploy bench --save` wrote on this machine.
            against: An older artifact, measured now, interleaved; give it or `baseline`.
            max_regress: The slowdown that is allowed.
            batch: Images per call.
            threads: Threads on a CPU; 0 leaves the number to the runtime.
            seconds: Measuring time; by default 10 with a baseline, and 4 at most otherwise.
            runtime: What runs ONNX files: "onnxruntime" or "openvino".
            strict: Whether "too noisy to tell" fails the test; else it warns.
        """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option of the plugin."""
    parser.getgroup("latency", "latency gates").addoption(
        _SKIP,
        action="store_true",
        help="Skip a latency gate whose baseline is from another device or setting.",
    )


@pytest.fixture
def latency_gate(request: pytest.FixtureRequest) -> LatencyGate:
    """Returns a function that fails the test if a network got slower (see `LatencyGate`).

    Ratio, interval and verdict become properties of the test in a JUnit report. Gates of all
    processes on a machine run one at a time.
    """

    def gate(
        artifact: Path | str,
        *,
        baseline: Path | str | None = None,
        against: Path | str | None = None,
        batch: int = 1,
        strict: bool = False,
        **options: Any,
    ) -> GateResult:
        __tracebackhide__ = True
        root = request.config.rootpath
        sources = {
            key: root / path
            for key, path in (("baseline", baseline), ("against", against))
            if path is not None
        }
        options = {"threads": 1, **{k: v for k, v in options.items() if v is not None}}
        result = _measured(request, root / artifact, batches=(batch,), **sources, **options)
        for row in result.rows:
            # As the fixture record_property does, which warns of itself under --junitxml.
            request.node.user_properties += _properties(row, alone=len(result.rows) == 1)
        _judge(result, strict)
        return result

    return gate


def _measured(request: pytest.FixtureRequest, artifact: Path, **options: Any) -> GateResult:
    """Returns what a gate found; a request that cannot be met fails the test in one sentence."""
    from dmcp_deploy.bench.comparable import NotComparableError
    from dmcp_deploy.errors import DmcpError
    from dmcp_deploy.run import gates

    __tracebackhide__ = True
    _warn_of_workers()
    try:
        with _only_one():
            return gates.gate(artifact, **options)
    except DmcpError as err:
        problem = err
    # Out of the handler, so that the sentence is not shown twice.
    if isinstance(problem, NotComparableError) and request.config.getoption(_SKIP):
        pytest.skip(str(problem))
    pytest.fail(str(problem), pytrace=False)


def _properties(row: GateRow, alone: bool) -> list[tuple[str, object]]:
    found, of = row.decision, "" if alone else f" of {row.name}"
    return [
        (f"latency_ratio{of}", f"{found.ratio:.4f}"),
        (f"latency_interval{of}", f"[{found.low:.4f}, {found.high:.4f}]"),
        (f"latency_verdict{of}", found.verdict),
    ]


def _judge(result: GateResult, strict: bool) -> None:
    from dmcp_deploy.bench.gate import format_gate

    __tracebackhide__ = True
    if result.is_regression or (strict and result.is_noisy):
        pytest.fail(f"latency gate\n{format_gate(result)}", pytrace=False)
    if result.is_noisy:
        warnings.warn(LatencyWarning(f"latency gate\n{format_gate(result)}"), stacklevel=4)


def _warn_of_workers() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        message = (
            f"{workers} pytest-xdist workers disturb one another's timings: run the latency gates"
            " in a call of their own, without -n."
        )
        warnings.warn(LatencyWarning(message), stacklevel=4)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Waits until no other process of this machine is within, whoever's it is."""
    import fcntl

    handle = _open_lock(Path(tempfile.gettempdir()) / _LOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        handle = os.open(path, flags | os.O_CREAT, 0o644)
        os.fchmod(handle, 0o644)  # whatever the umask: other users wait for it too
        return handle
