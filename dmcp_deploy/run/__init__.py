"""The chain over one run directory; its stages are the functions of this package."""

from dmcp_deploy.run.api import bench, engine, export, gate, load, prune, search, slice, train

__all__ = ["bench", "engine", "export", "gate", "load", "prune", "search", "slice", "train"]
