"""dmcp-deploy: search, slice and measure channel-pruned networks for edge GPUs.

What the command line does, Python does with the same names: `dmcp_deploy.prune("mobilenet_v2",
"211M")`, and `search`, `slice`, `train`, `export`, `bench`, `load` on a run directory.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = ("prune", "slice", "train", "load")


def __getattr__(name: str) -> Any:
    """Returns a public function; torch and its kin are imported when one is asked for."""
    if name in _FUNCTIONS:
        from dmcp_deploy import pipeline

        return getattr(pipeline, name)
    if name in ("search", "export", "bench"):
        import importlib

        return importlib.import_module(f"dmcp_deploy.{name}")
    raise AttributeError(f"module 'dmcp_deploy' has no attribute {name!r}")
