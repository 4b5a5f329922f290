"""Models by name: torchvision's, timm's, the user's own."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from dmcp_deploy.errors import DmcpError, reason_of
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.fan_in import match_fan_in
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.names import check_written, unknown_model
from dmcp_deploy.network.ready import make_ready
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.registry import near_matches

#: torchvision builds these with auxiliary heads that exist in training alone.
_WITHOUT_AUXILIARY_HEADS = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
_TRANSFORMERS = ("vit_", "swin_", "maxvit")


def build_network(spec: NetworkSpec, seed: int = 0) -> Network:
    """Returns the network that a spec describes, freshly initialised, with its channel groups.

    A width multiplier goes to the model's own builder where that takes one; elsewhere every
    group is narrowed to its share, rounded.

    Args:
        spec: The network's description.
        seed: The seed of the initial weights.

    Raises:
        DmcpError: The model is unknown, cannot be built so, or cannot be traced.
    """
    if not 0 < spec.width_mult < math.inf:
        raise DmcpError(f"The width multiplier {spec.width_mult:g} must be above zero and finite.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        builder, takes_width = _builder(spec)
        model = builder()
        make_ready(model, spec.input_shape)
        network = trace_network(model, spec)
        if takes_width or spec.width_mult == 1.0:
            return network
        if spec.width_mult > 1.0:
            raise DmcpError(
                f"{spec.model} has no width multiplier of its own, so --width-mult must be at"
                f" most 1, not {spec.width_mult:g}."
            )
        narrow = slice_network(network, _scaled(network, spec.width_mult))
        match_fan_in(network, narrow)
        return trace_network(narrow, spec)


def unvaried_weights(spec: NetworkSpec) -> tuple[int, int]:
    """Returns how many weights of a user's model do not change with the seed, and of how many.

    Those are weights that the builder has loaded itself. Tensors of equal numbers do not count, and
    nothing can be told of a builder that seeds torch itself: (0, 0).
    """
    if ":" not in spec.model or spec.model.startswith("timm:"):
        return 0, 0
    builder, models = _builder(spec)[0], []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            models.append(builder())
            if torch.initial_seed() != seed:
                return 0, 0
    pairs = zip(*(model.parameters() for model in models), strict=True)
    same = [
        torch.equal(one, other)
        for one, other in pairs
        if not is_lazy(one) and one.ndim > 1 and one.min() != one.max()
    ]
    return sum(same), len(same)


def forget_weights(model: nn.Module, seed: int) -> None:
    """Draws the weights of a model's layers anew, each as its own type does, in place.

    Frozen parameters stay, and so do those that belong to no layer with an initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            learnt = [p.requires_grad for p in module.parameters(recurse=False)]
            if learnt and all(learnt) and callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()  # type: ignore[operator]


def check_model(name: str) -> None:
    """Checks that there is a model of this name, without building it.

    Raises:
        DmcpError: There is none, or a library that it needs is missing.
    """
    _builder(NetworkSpec(name, 1.0, 1000, (3, 224, 224)))


def model_names() -> list[str]:
    """Returns the names of torchvision's classification CNNs."""
    from torchvision import models

    names = models.list_models(module=models)
    return [name for name in names if not name.startswith(_TRANSFORMERS)]


def _scaled(network: Network, factor: float) -> dict[str, int]:
    return {
        group.name: max(1, round(group.units * factor)) * group.unit for group in network.prunable
    }


def _builder(spec: NetworkSpec) -> tuple[Callable[[], nn.Module], bool]:
    """Returns what builds the model, and whether it takes the width multiplier itself."""
    if spec.model.startswith("timm:"):
        return _timm_builder(spec), False
    if ":" in spec.model and not spec.model.startswith("torchvision:"):
        return _own_builder(spec)
    return _torchvision_builder(spec)


def _torchvision_builder(spec: NetworkSpec) -> tuple[Callable[[], nn.Module], bool]:
    from torchvision import models

    known = models.list_models(module=models)
    if spec.model not in known:
        raise unknown_model(spec.model, known)
    options: dict[str, Any] = dict(_WITHOUT_AUXILIARY_HEADS.get(spec.model, {}))
    builder = models.get_model_builder(spec.model)
    takes_width = spec.model == "mobilenet_v2"
    if takes_width:
        options["width_mult"] = spec.width_mult
    if spec.transform_input:
        options["transform_input"] = True
    options["num_classes"] = spec.num_classes
    return lambda: builder(weights=None, **options), takes_width


def _timm_builder(spec: NetworkSpec) -> Callable[[], nn.Module]:
    try:
        import timm
    except ImportError as err:
        raise DmcpError(
            f"The model {spec.model} needs timm: run pip install 'dmcp-deploy[timm]'."
        ) from err
    name = spec.model.removeprefix("timm:")
    if not timm.is_model(name):
        raise DmcpError(f"There is no timm model {name!r}{near_matches(name, timm.list_models())}")
    channels = spec.input_shape[0]
    return lambda: timm.create_model(name, num_classes=spec.num_classes, in_chans=channels)


def _own_builder(spec: NetworkSpec) -> tuple[Callable[[], nn.Module], bool]:
    function = _import_function(spec.model)
    takes = _parameters(spec.model, function)
    # A class without a constructor of its own shows nn.Module's, which takes nothing.
    bare = getattr(function, "__init__", None) is nn.Module.__init__
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values()) and not bare
    options: dict[str, Any] = {}
    if "num_classes" in takes or open_ended:
        options["num_classes"] = spec.num_classes
    if "width_mult" in takes:
        options["width_mult"] = spec.width_mult
    _check_complete(spec.model, takes, options)

    def build() -> nn.Module:
        model = function(**options)
        if not isinstance(model, nn.Module):
            raise DmcpError(
                f"{spec.model} returned {type(model).__name__}, and a torch.nn.Module is needed."
            )
        return model

    return build, "width_mult" in takes


def _parameters(name: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError as err:
        raise DmcpError(f"{name} has no Python signature: wrap it in a function of yours.") from err


def _check_complete(
    name: str, takes: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> None:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        p.name
        for p in takes.values()
        if p.default is p.empty and p.kind not in optional and p.name not in options
    ]
    if missing:
        raise DmcpError(
            f"{name} needs {', '.join(missing)}, and only num_classes and width_mult are given to"
            " it: give the others default values."
        )


def _import_function(name: str) -> Callable[..., Any]:
    check_written(name)
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as err:
        raise DmcpError(f"The model {name!r} cannot be imported: {reason_of(err)}.") from err
    except ValueError as err:
        raise DmcpError(f"{name!r} is not written as package.module:function.") from err
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DmcpError(
            f"{module_name} has no function {function_name!r}"
            f"{near_matches(function_name, dir(module))}"
        )
    return function  # type: ignore[no-any-return]
