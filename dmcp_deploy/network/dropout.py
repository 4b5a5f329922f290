"""Dropout and its kin: what sets parts of activations to zero at random in training."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from dmcp_deploy.network.call import module_path
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.modes import DROPOUTS

#: Classes of libraries that need not be installed -> the attribute that is their rate.
_RATES = {
    "torchvision.ops.stochastic_depth.StochasticDepth": "p",
    "timm.layers.drop.DropPath": "drop_prob",
    "timm.layers.drop.DropBlock2d": "drop_prob",
}


def turn_off_dropout(network: Network) -> tuple[str, ...]:
    """Lets a network's modules for dropout pass on all they read, in training too, in place.

    Returns:
        The modules whose forward calls dropout as a function, which stays on.
    """
    for module in network.model.modules():
        if (rate := _rate(module)) is not None:
            setattr(module, rate, 0.0)
    calling = [module_path(node) for node in network.graph.nodes if _calls_dropout(node)]
    return tuple(dict.fromkeys(path or type(network.model).__name__ for path in calling))


def _rate(module: nn.Module) -> str | None:
    if isinstance(module, _DropoutNd):
        return "p"
    return _RATES.get(f"{type(module).__module__}.{type(module).__name__}")


def _calls_dropout(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in DROPOUTS:
        return False
    rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p")
    return bool(rate != 0.0)
