"""Names of what can be chosen, and where each lives; torch-free."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from dmcp_deploy.errors import DmcpError

#: Search method -> its function, "module:function"; of a module alone it is `search`.
METHODS = {
    "amc": "dmcp_deploy.search.amc.method",
    "autoslim": "dmcp_deploy.search.autoslim",
    "bn-scale": "dmcp_deploy.search.magnitude:search_bn_scale",
    "budget-only": "dmcp_deploy.search.dmcp:search_budget_only",
    "dmcp": "dmcp_deploy.search.dmcp",
    "fpgm": "dmcp_deploy.search.masked:search_fpgm",
    "l1": "dmcp_deploy.search.magnitude:search_l1",
    "l2": "dmcp_deploy.search.magnitude:search_l2",
    "metapruning": "dmcp_deploy.search.metapruning",
    "random": "dmcp_deploy.search.baselines:search_random",
    "sfp": "dmcp_deploy.search.masked:search_sfp",
    "uniform": "dmcp_deploy.search.baselines:search_uniform",
    "uniform-keep-last": "dmcp_deploy.search.baselines:search_uniform_keep_last",
}

#: What a network computes in, from ONNX file to engine.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")

#: What runs an ONNX file -> module with the functions of `runtimes.session.Runtime`.
ONNX_RUNTIMES = {
    "onnxruntime": "dmcp_deploy.runtimes.onnxruntime",
    "openvino": "dmcp_deploy.runtimes.openvino",
}

#: What runs the networks of a run -> module that holds its `open_network` function.
NETWORK_RUNTIMES = {"torch": "dmcp_deploy.runtimes.torch_session"}

#: What engines are built for and run in; an engine names its own of them.
ENGINE_RUNTIMES = ("tensorrt", "tensorrt-rtx")
#: The module that runs engines, with the functions of `runtimes.session.Runtime`.
ENGINE_MODULE = "dmcp_deploy.runtimes.tensorrt"

#: What `bench` measures in; engines for the last ones are built first.
BENCH_RUNTIMES = (*ONNX_RUNTIMES, *NETWORK_RUNTIMES, *ENGINE_RUNTIMES)


def near_matches(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence: "; did you mean a, b?" for near matches, else ".".

    One that differs in nothing but case, dashes, dots and a "torchvision:" before it is alone.
    """
    names = list(known)
    close = [each for each in names if plain(name) in (plain(each), plain(each.split(":")[-1]))]
    close = close if plain(name) else []
    close = close or difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else "."


def plain(name: str) -> str:
    """Returns a name's letters and digits alone, in lower case: "ResNet-50" and "resnet50"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def choose(what: str, value: str, allowed: Iterable[str]) -> str:
    """Returns a value if it is among those allowed.

    Raises:
        DmcpError: It is not.
    """
    options = list(allowed)
    if value not in options:
        raise DmcpError(
            f"{what} {value!r} is unknown: choose one of {', '.join(options)}"
            f"{near_matches(value, options)}"
        )
    return value
