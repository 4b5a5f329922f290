"""dmcp-deploy: search, slice and measure channel-pruned networks for edge GPUs.

What the command line does, Python does with the same names: `dmcp_deploy.prune("mobilenet_v2",
"211M")`, and `search`, `slice`, `train`, `export`, `engine`, `bench`, `gate`, `load`,
`write_report` on run directories; `groups` and `flops` for a network by name; `table_probes`,
`table_build` and `table_predict` for latency tables.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

#: Public name -> the module it lives in.
_HOMES = {
    "prune": "pipeline",
    "slice": "pipeline",
    "train": "pipeline",
    "engine": "pipeline",
    "gate": "pipeline",
    "load": "pipeline",
    "table_probes": "tables",
    "table_build": "tables",
    "table_predict": "tables",
    "groups": "listing",
    "flops": "listing",
    "write_report": "report.write",
    "Compute": "request",
    "DmcpError": "errors",
}
#: Packages that can be called as the stage of their name.
_ROOMS = ("search", "export", "bench")


def __getattr__(name: str) -> Any:
    """Returns what is public; torch and its kin are imported once they are needed."""
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(f"dmcp_deploy.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"dmcp_deploy.{name}")
    raise AttributeError(f"module 'dmcp_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted([*globals(), *_HOMES, *_ROOMS])
