"""dmcp-deploy: search, slice and measure channel-pruned networks for edge GPUs.

What the command line does, Python does with the same names: `dmcp_deploy.prune("mobilenet_v2",
"211M")` is the whole chain, `dmcp_deploy.run` holds each stage of it. The functions named in
`__all__` are imported once they are needed: `import dmcp_deploy` costs nothing. An option of the
command line is a keyword there, or a field of an object: `options=RunOptions(seed=1)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dmcp_deploy.comparison.run import compare
    from dmcp_deploy.errors import DmcpError
    from dmcp_deploy.network.listing import flops, groups
    from dmcp_deploy.options.export import BuildOptions
    from dmcp_deploy.options.measure import BenchOptions
    from dmcp_deploy.options.run import Compute, RunOptions
    from dmcp_deploy.report.write import write_report
    from dmcp_deploy.run.api import engine, load, prune, slice, train
    from dmcp_deploy.run.gates import gate
    from dmcp_deploy.run.tables import table_build, table_predict, table_probes

__all__ = [
    "BenchOptions",
    "BuildOptions",
    "Compute",
    "DmcpError",
    "RunOptions",
    "compare",
    "engine",
    "flops",
    "gate",
    "groups",
    "load",
    "prune",
    "slice",
    "table_build",
    "table_predict",
    "table_probes",
    "train",
    "write_report",
]

#: Public name -> the module it lives in; the imports above, for the time of use.
_HOMES = {
    "BenchOptions": "options.measure",
    "BuildOptions": "options.export",
    "Compute": "options.run",
    "DmcpError": "errors",
    "RunOptions": "options.run",
    "compare": "comparison.run",
    "engine": "run.api",
    "flops": "network.listing",
    "gate": "run.gates",
    "groups": "network.listing",
    "load": "run.api",
    "prune": "run.api",
    "slice": "run.api",
    "table_build": "run.tables",
    "table_predict": "run.tables",
    "table_probes": "run.tables",
    "train": "run.api",
    "write_report": "report.write",
}
#: Packages that need no import of their own: `dmcp_deploy.run.search(...)`.
_PACKAGES = ("bench", "export", "run", "search")


def __getattr__(name: str) -> Any:
    """Returns what is public; torch and its kin are imported once they are needed."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(f"dmcp_deploy.{_HOMES[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"dmcp_deploy.{name}")
    raise AttributeError(f"module 'dmcp_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted([*globals(), *__all__, *_PACKAGES])
