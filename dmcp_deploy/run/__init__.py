"""The chain over one run directory; its stages are the functions of this package."""

from dmcp_deploy.run.api import bench, engine, export, load, prune, search, slice, train
from dmcp_deploy.run.gates import gate

__all__ = ["bench", "engine", "export", "gate", "load", "prune", "search", "slice", "train"]
