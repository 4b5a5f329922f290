"""From a network and what its groups keep to a smaller, dense network."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from dmcp_deploy.network.aliases import names_of_tensors
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.graph_module import graph_module
from dmcp_deploy.network.layers import narrowed
from dmcp_deploy.network.selection import Selection, layer_tensors, part
from dmcp_deploy.plan import Keep


def slice_network(network: Network, keeps: Mapping[str, int | Keep]) -> nn.Module:
    """Returns a new dense model that holds copies of the kept weights.

    It is of the stock classes, and in evaluation mode it computes what the supernet computes at
    the same widths, given the same batch-norm statistics. Where a stock class cannot
    (`Network.graph_reason`), the network's graph stands in for its forward pass; names stay. The
    network itself is not changed.

    Args:
        network: The full network.
        keeps: Group name -> channels kept from the front, or a Keep; absent groups stay whole.

    Raises:
        DmcpError: A group is unknown, pinned but not kept whole, or left with parts of units.
    """
    selection = Selection(network, keeps)
    dense = copy.deepcopy(network.model, _computed(network.model))
    names = names_of_tensors(dense)
    for layer in network.layers.values():
        module = dense.get_submodule(layer.name)
        tensors = layer_tensors(module, layer, selection)
        if tensors or layer.kind == "norm":
            inputs = None if layer.inputs is None else selection.count(layer.inputs)
            _shrink(module, tensors, inputs)
            for tensor in tensors:
                _rename(dense, names[f"{layer.name}.{tensor}"])
    for name, (dim, units) in network.parameters.items():
        owner, _, attribute = name.rpartition(".")
        parameter = dense.get_parameter(name)
        kept = part(parameter, selection.picks([(dim, units)]))
        setattr(dense.get_submodule(owner), attribute, _own(kept, parameter))
        _rename(dense, names[name])
    if network.graph_reason is None:
        return dense
    return graph_module(network, dense, selection.extent)


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """Returns copies of what hooks have computed last (of weight norm, say), by identity.

    They are part of a graph of autograd, and those torch does not copy.
    """
    values = (value for module in model.modules() for value in module.__dict__.values())
    computed = (v for v in values if isinstance(v, Tensor) and not v.is_leaf)
    return {id(value): value.detach().clone() for value in computed}


def _shrink(module: nn.Module, tensors: Mapping[str, Tensor], inputs: int | None) -> None:
    small = narrowed(module, tensors, inputs)
    attributes = {k: v for k, v in small.__dict__.items() if not k.startswith("_")}
    module.__dict__.update(attributes)
    for name, tensor in tensors.items():
        setattr(module, name, _own(tensor, getattr(module, name)))


def _rename(dense: nn.Module, names: tuple[str, ...]) -> None:
    """Registers the first name's tensor under the others too, which still hold the whole one."""
    owner, _, attribute = names[0].rpartition(".")
    tensor = getattr(dense.get_submodule(owner), attribute)
    for name in names[1:]:
        owner, _, attribute = name.rpartition(".")
        setattr(dense.get_submodule(owner), attribute, tensor)


def _own(kept: Tensor, whole: Tensor) -> Tensor:
    data = kept.detach().clone()
    if isinstance(whole, nn.Parameter):
        return nn.Parameter(data, requires_grad=whole.requires_grad)
    return data
