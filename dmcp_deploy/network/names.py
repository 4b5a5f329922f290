"""Names of models: which there are, and what a wrong one may have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.extras import is_installed
from dmcp_deploy.registry import near_matches, plain


def unknown_model(name: str, known: Sequence[str]) -> DmcpError:
    """Returns the error about a name that is none of torchvision's.

    Args:
        name: As the user wrote it.
        known: Torchvision's names.
    """
    ways = "give torchvision's name, timm:NAME or package.module:function"
    if re.search(r"\.(onnx|engine|json|pth?|safetensors)$", name):
        ways = f"--model builds a network from code, and this is a file's name: {ways[5:]}"
    if name.endswith(".py"):
        ways = f"write a function of yours as {name[:-3].lstrip('./').replace('/', '.')}:FUNCTION"
    return DmcpError(f"There is no model {name!r}: {ways}{_near(name, known)}")


def check_written(name: str) -> None:
    """Checks that a name of one's own function is written as Python names it.

    Raises:
        DmcpError: It is written as a path, or a part is missing.
    """
    module, _, function = name.partition(":")
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").lstrip("./").replace("/", ".")
        raise DmcpError(
            f"The model {name!r} names a file: write its module instead, {dotted}:{function},"
            " from the folder that it is found in."
        )
    if not module.strip(".") or module.startswith(".") or not function:
        raise DmcpError(f"The model {name!r} is not written as package.module:function.")


def _near(name: str, known: Sequence[str]) -> str:
    last = re.split(r"[./:]", name)[-1]
    for wanted, names in ((name, known), (name, _timm_names()), (last, known)):
        same = [each for each in names if plain(wanted) and plain(each) == plain(wanted)]
        if same:
            return f"; did you mean {same[0]}?"
    return near_matches(name, [*known, *_timm_names()])


def _timm_names() -> list[str]:
    if not is_installed("timm"):
        return []
    import timm

    return [f"timm:{name}" for name in timm.list_models()]
