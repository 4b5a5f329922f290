"""Optional libraries: which extra brings each of them."""

from __future__ import annotations

import importlib.util

from dmcp_deploy.errors import DmcpError

#: Import name -> extra that brings it.
_EXTRAS = {
    "torch": "search",
    "torchvision": "search",
    "safetensors": "search",
    "PIL": "search",
    "onnx": "export",
    "onnxsim": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "openvino": "openvino",
    "webdataset": "webdataset",
}


def missing_library(name: str) -> DmcpError | None:
    """Returns what to tell the user who lacks a library; None for one that no extra brings.

    Args:
        name: A module's import name, dotted or not.
    """
    library = name.partition(".")[0]
    extra = _EXTRAS.get(library)
    if extra is None:
        return None
    return DmcpError(f"{library} is not installed: run pip install 'dmcp-deploy[{extra}]'.")


def require(*libraries: str) -> None:
    """Checks that libraries are installed; none is imported.

    Raises:
        DmcpError: One is not.
    """
    for library in libraries:
        if not is_installed(library):
            problem = missing_library(library)
            assert problem is not None, library
            raise problem


def is_installed(library: str) -> bool:
    """Returns whether a library is installed; it is not imported."""
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):  # a parent package or a stand-in that is no module
        return False
