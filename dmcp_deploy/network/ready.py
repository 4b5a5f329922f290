"""Models made ready to be traced and copied: what their builder leaves to the first images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.layer_rules import Shape
from dmcp_deploy.network.misfit import describe
from dmcp_deploy.network.shape_pass import MISFITS
from dmcp_deploy.network.trace import evaluating
from dmcp_deploy.units import format_input


def make_ready(model: nn.Module, input_shape: Shape) -> None:
    """Gives a freshly built model, in place, all that its builder leaves to the first images.

    Lazy layers get their sizes and weights by one image of zeros. Weights that hooks compute (of
    weight norm, say) leave the graph of autograd that they were computed in, so that the model
    can be copied.

    Raises:
        DmcpError: The model does not run on such an image, or does not call a lazy layer.
    """
    _materialise(model, input_shape)
    for module in model.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor) and not value.is_leaf:
                module.__dict__[name] = value.detach()


def _materialise(model: nn.Module, input_shape: Shape) -> None:
    if not _lazy_layers(model):
        return
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *input_shape))
    except MISFITS as err:
        raise DmcpError(
            f"The network does not run on a {format_input(input_shape)} input ({describe(err)}), so"
            " that its lazy layers get no sizes."
        ) from err
    left = _lazy_layers(model)
    if left:
        raise DmcpError(
            f"The forward pass does not call {', '.join(left)}, so that these lazy layers get no"
            " sizes: leave them out."
        )


def _lazy_layers(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]
    ]
