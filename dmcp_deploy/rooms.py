"""Rooms that are also functions: `dmcp_deploy.search` is a package and can be called."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A package that, when called, runs the stage of the same name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Runs the stage (see `dmcp_deploy.pipeline`)."""
        from dmcp_deploy import pipeline

        return getattr(pipeline, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(package: str) -> None:
    """Makes an imported package callable as the stage of its name."""
    sys.modules[package].__class__ = CallableRoom
