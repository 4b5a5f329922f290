"""The networks of a run: full and random, as the search begins and ends, pruned and trained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.dropout import turn_off_dropout
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.models import build_network, forget_weights
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.run.context import SUPERNET, RunContext
from dmcp_deploy.run.start import starting_network, weights_given
from dmcp_deploy.rundir.stages import SEARCH
from dmcp_deploy.text_table import few
from dmcp_deploy.training.weights import load_weights, read_tensors


def random_network(context: RunContext) -> Network:
    """Returns the full network with random weights, the same at every call."""
    network = build_network(context.request.network, context.request.seed)
    if context.request.weights is None and weights_given(context):
        forget_weights(network.model, context.request.seed)
    return network


def searched_network(context: RunContext) -> Network:
    """Returns the full network with the weights that the search left behind.

    Raises:
        DmcpError: They are missing or damaged.
    """
    record = context.run.stages().get(SEARCH)
    if record is None or SUPERNET not in record.outputs:
        return starting_network(context)[0]
    path = context.run.file(SUPERNET)
    if not path.exists():
        raise DmcpError(f"{path} is missing: run search again with the same settings.")
    if digest_file(path) != record.outputs[SUPERNET]:
        raise DmcpError(
            f"{path} is damaged, the search has written another file: delete it and run search"
            " again with the same settings, which goes on from its last checkpoint."
        )
    network = random_network(context)
    load_weights(network.model, read_tensors(path), str(path))
    return network


def drop_nothing(context: RunContext, network: Network) -> None:
    """Turns a network's dropout off, in place, and tells of what cannot be."""
    if calling := turn_off_dropout(network):
        context.compute.progress.say(
            f"Dropout is off in this recipe, but {few(calling)} of {network.spec.model} calls it as"
            " a function, where it stays on: make it a module, as nn.Dropout is"
        )


def load_dense(folder: Path) -> nn.Module:
    """Returns the pruned, trained network in a folder, in evaluation mode, on the CPU.

    Raises:
        DmcpError: The plan or the trained weights are missing, damaged, or do not fit.
    """
    if not folder.is_dir():
        raise DmcpError(f"There is no run directory {folder}.")
    plan = ChannelPlan.load(folder / "plan.json")
    weights = folder / "dense.safetensors"
    if not weights.exists():
        raise DmcpError(f"{folder} has no dense.safetensors yet: run train first.")
    network = build_network(plan.network)
    plan.check_fits(network.sizes(), plan.network.model)
    dense = slice_network(network, plan.groups)
    load_weights(dense, read_tensors(weights), str(weights))
    return dense.eval()
