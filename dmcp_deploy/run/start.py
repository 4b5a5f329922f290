"""The weights that a run starts from: taken once, and kept in its directory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.importance import sort_channels
from dmcp_deploy.network.models import build_network, unvaried_weights
from dmcp_deploy.run.context import RunContext
from dmcp_deploy.rundir.stages import SEARCH, WEIGHTS
from dmcp_deploy.training.distributed import is_main, wait_for_all
from dmcp_deploy.training.given_weights import load_given
from dmcp_deploy.training.imagenet import imagenet_tensors
from dmcp_deploy.training.weight_files import Stored, split_source, stored_weights
from dmcp_deploy.training.weights import load_weights, read_tensors, save_weights

#: The full network's given weights, as the search starts from them.
WEIGHTS_FILE = "weights.safetensors"


def starting_network(context: RunContext) -> tuple[Network, bool]:
    """Returns the full network as the search starts from it, and whether its weights are given.

    Given weights come with the channels of every group in order of importance. The run's own copy
    of them is read where there is one, whatever has become of their file since.

    Raises:
        DmcpError: The weights are not there, damaged, do not fit, or have changed since.
    """
    network = build_network(context.request.network, context.request.seed)
    if _is_kept(context):
        _load_kept(context, network)
        return network, True
    if context.request.weights is not None:
        before = _frozen(network)
        said = _load_source(context, network, context.request.weights)
        said += _frozen_anew(context, before, _frozen(network))
    else:
        said = _weights_of_builder(context)
        if not said:
            return network, False
    for sentence in said:
        context.compute.progress.say(sentence)
    sort_channels(network)
    return network, True


def weights_given(context: RunContext) -> bool:
    """Returns whether the weights of a begun run's full network were given, not random."""
    return context.request.weights is not None or _is_kept(context)


def keep_weights(context: RunContext, network: Network) -> None:
    """Writes a begun run's given weights into its directory, where they are not yet."""
    kept = _is_kept(context)
    wait_for_all()  # before the first process keeps them
    if kept:
        return
    with context.stage(WEIGHTS, [], [WEIGHTS_FILE]) as figures:
        figures["source"] = context.request.weights or context.request.network.model
        if is_main():
            save_weights(network.model, context.run.file(WEIGHTS_FILE))


def _is_kept(context: RunContext) -> bool:
    return context.run.is_begun() and WEIGHTS in context.run.stages()


def _load_kept(context: RunContext, network: Network) -> None:
    path, record = context.run.file(WEIGHTS_FILE), context.run.stages()[WEIGHTS]
    if not path.exists():
        raise DmcpError(f"{path} is missing: restore it, or choose another --out.")
    if digest_file(path) != record.outputs[WEIGHTS_FILE]:
        raise DmcpError(
            f"{path} has changed since the run was begun: restore it, or choose another --out."
        )
    load_weights(network.model, read_tensors(path), str(path))


def _load_source(context: RunContext, network: Network, source: str) -> list[str]:
    """Loads what the run was asked to start from; returns what is to be said of it."""
    if source == "imagenet":
        tensors = imagenet_tensors(network.spec.model)
        return load_given(network, [Stored("", tensors)], source)
    path, place = split_source(source)
    if digest_file(path) != context.request.weights_digest:
        raise DmcpError(
            f"{path} has changed since the run in {context.run.path} was begun: restore it, or"
            " choose another --out."
        )
    return load_given(network, stored_weights(path), str(path), place)


def _frozen(network: Network) -> dict[str, Tensor]:
    parameters = network.model.named_parameters()
    return {name: p.detach().clone() for name, p in parameters if not p.requires_grad}


def _frozen_anew(
    context: RunContext, built: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> list[str]:
    """Returns that the pruned network will not have the frozen weights that were given."""
    names = [name for name in built if not torch.equal(built[name], given[name])]
    if context.request.init != "scratch" or not names:
        return []
    return [
        f"The pruned network starts anew and never learns what the network freezes, {names[0]} and"
        f" the like: --init sliced gives it the {len(names)} tensors that were given."
    ]


def _weights_of_builder(context: RunContext) -> list[str]:
    """Returns that the model comes with weights; nothing if they are random."""
    if context.run.is_begun() and SEARCH in context.run.stages():
        return []  # an earlier release has taken them for random ones, and so they stay
    same, total = unvaried_weights(context.request.network)
    if not same or 2 * same < total:
        return []
    scratch = context.request.init == "scratch"
    return [
        f"{context.request.network.model} comes with weights of its own ({same} of {total} tensors"
        " do not change with the seed): they are taken as given"
        + (", and --init sliced keeps them in the pruned network." if scratch else ".")
    ]
