"""The ImageNet weights of torchvision's and timm's models, downloaded where they are not cached."""

from __future__ import annotations

import io
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from torch import Tensor

from dmcp_deploy.errors import DmcpError, reason_of

_DOWNLOAD_TIMEOUT_S = 15.0
_TIMM = "timm:"


def imagenet_tensors(model_name: str) -> Mapping[str, Tensor]:
    """Returns the ImageNet weights that a model's own library has of it.

    Raises:
        DmcpError: There are none, or the download fails.
    """
    if model_name.startswith(_TIMM):
        return timm_tensors(model_name.removeprefix(_TIMM))
    from torchvision import models

    if model_name not in models.list_models(module=models):
        raise DmcpError(
            f"--weights imagenet is torchvision's and timm's, and {model_name} is of neither: pass"
            " a weights file."
        )
    weights = models.get_model_weights(model_name).DEFAULT
    try:
        with _time_limit(_DOWNLOAD_TIMEOUT_S), redirect_stdout(io.StringIO()):
            state: Mapping[str, Tensor] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError, pickle.UnpicklingError) as err:
        raise _download_error(model_name, weights.url, err) from err
    return state


def timm_tensors(name: str, source: Mapping[str, Any] | None = None) -> Mapping[str, Tensor]:
    """Returns timm's own weights of a model, as timm loads them: older names translated.

    Args:
        name: timm's name.
        source: Where timm reads them instead of its own place: {"file": path}, say.

    Raises:
        DmcpError: timm has none, or the download fails.
    """
    import timm

    published = timm.get_pretrained_cfg(name)
    if source is None and (published is None or not published.has_weights):
        raise DmcpError(f"timm has no weights of {name}: pass a weights file.")
    overlay = None if source is None else dict(source)
    try:
        with _time_limit(_DOWNLOAD_TIMEOUT_S), redirect_stdout(io.StringIO()):
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as err:  # timm and the hub's client raise their own kinds, and urllib's
        raise _download_error(_TIMM + name, f"timm's weights of {name}", err) from err
    tensors: Mapping[str, Tensor] = model.state_dict()
    return tensors


def _download_error(model_name: str, place: str, err: Exception) -> DmcpError:
    return DmcpError(
        f"The ImageNet weights of {model_name} could not be downloaded ({reason_of(err)}):"
        f" download {place} elsewhere and pass the file with --weights."
    )


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Limits how long a connection may keep silent; torch.hub sets no limit itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
