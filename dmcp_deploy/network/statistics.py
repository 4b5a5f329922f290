"""Where a network keeps the statistics of its norms, and norms that keep none."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.trace import Trace
from dmcp_deploy.network.upstream import upstream

#: The buffers of norms that training moves.
STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
#: Functions of (input, running mean, running variance, weight, bias, flag, ...) -> the name of the
#: flag that makes them take the batch's statistics and move the running ones, and its default.
NORM_FUNCTIONS = {F.batch_norm: ("training", False), F.instance_norm: ("use_input_stats", True)}
_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias")


def keeps_statistics(module: nn.Module) -> bool:
    """Returns whether a module itself keeps running statistics, whatever its class."""
    means = (module._buffers.get(name) for name in ("running_mean", "running_var"))
    return all(isinstance(mean, Tensor) for mean in means)


def norm_arguments(function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Returns the arguments of a call of one of NORM_FUNCTIONS by name, its flag among them."""
    flag, default = NORM_FUNCTIONS[function]
    names = (*_ARGUMENTS, flag, "momentum", "eps")
    return {"running_mean": None, flag: default, **dict(zip(names, args, strict=False)), **kwargs}


def check_statistics(trace: Trace) -> None:
    """Checks that no image's logits depend on the other images of its batch.

    Raises:
        DmcpError: A batch norm uses the batch's statistics in evaluation mode too.
    """
    for name, module in trace.modules.items():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise _depends_on_batch(f"{name} ({type(module).__name__})")
    for node in trace.graph.nodes:
        if node.op == "call_function" and node.target is F.batch_norm and _looks_at_batch(node):
            raise _depends_on_batch(f"{node.name} (a call of batch_norm)")


def _looks_at_batch(node: fx.Node) -> bool:
    arguments = norm_arguments(F.batch_norm, node.args, node.kwargs)
    by_batch = arguments["training"] is True or arguments["running_mean"] is None
    # Weights that are standardised do not depend on the images.
    return by_batch and any(n.op == "placeholder" for n in upstream([arguments["input"]]))


def _depends_on_batch(what: str) -> DmcpError:
    return DmcpError(
        f"{what} keeps no running statistics, so that an image's logits depend on the others in"
        " its batch: build it with track_running_stats=True."
    )
