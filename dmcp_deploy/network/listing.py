"""What `groups` and `flops` print: a network's channel groups and its cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.options.declare import merged
from dmcp_deploy.options.network import NetworkOptions
from dmcp_deploy.plan import ChannelPlan, NetworkSpec
from dmcp_deploy.text_table import columns, few
from dmcp_deploy.units import format_bytes, format_macs

if TYPE_CHECKING:
    from dmcp_deploy.network.graph import Network


def network(model: str, options: NetworkOptions) -> Network:
    """Returns a network by name with its channel groups.

    Raises:
        DmcpError: The model is unknown, or does not run on such an input.
    """
    from dmcp_deploy.network.models import build_network

    return build_network(NetworkSpec.asked(model, options, options.classes))


def groups(
    model: str, *, options: NetworkOptions | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """Returns the channel groups of a network by name, as JSON values.

    Args:
        model: The model's name.
        options: Its size, that of the input, the number of classes.
        **changes: Fields of `NetworkOptions` that differ from `options`.

    Raises:
        DmcpError: The model is unknown, or does not run on such an input.
    """
    return describe_groups(network(model, merged(NetworkOptions, options, **changes)))


def describe_groups(net: Network) -> list[dict[str, Any]]:
    """Returns the channel groups of a network as JSON values."""
    return [
        {
            "name": group.name,
            "size": group.size,
            "unit": group.unit,
            "prunable": group.prunable,
            "reason": group.reason,
            "layers": list(group.layers),
        }
        for group in net.groups
    ]


def groups_table(net: Network) -> str:
    """Returns the channel groups of a network as text."""
    rows: list[tuple[str, ...]] = [("group", "size", "unit", "prunable", "layers")]
    for group in net.groups:
        layers = ", ".join(group.layers[1:4]) + (", ..." if len(group.layers) > 4 else "")
        yes = "yes" if group.prunable else f"no: {group.reason}"
        rows.append((group.name, str(group.size), str(group.unit), yes, layers))
    counts = f"{len(net.groups)} groups, {len(net.prunable)} prunable"
    ends = "the network's input and output stay whole"
    return "\n".join([columns(rows, right=(1, 2)), f"{counts}; {ends}", *notes(net)])


def notes(net: Network) -> Iterator[str]:
    """Yields what there is to say of the parts of a network that are no groups."""
    if net.opaque:
        reasons = (f"{name} ({reason})" for name, reason in sorted(net.opaque.items()))
        yield f"not traced, kept whole: {', '.join(reasons)}"
    if net.left_out:
        yield f"in training mode, passes at some width go without {few(net.left_out)}"
    if net.graph_reason:
        yield f"pruned, it is its traced graph and not its class: {net.graph_reason}"


def flops(
    model: str,
    *,
    plan: Path | None = None,
    options: NetworkOptions | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Returns a network's multiply-adds, parameters and activation bytes, in all and by layer.

    The layers are convolutions and linear layers; parameters in all include normalisation.

    Args:
        model: The model's name.
        plan: A plan to count at; it brings its own classes and input.
        options: Its size, that of the input, the number of classes.
        **changes: Fields of `NetworkOptions` that differ from `options`.

    Raises:
        DmcpError: The model is unknown, or the plan is damaged or of another network.
    """
    from dmcp_deploy.network.cost import NetworkCost
    from dmcp_deploy.network.models import build_network

    widths: dict[str, int] = {}
    asked = merged(NetworkOptions, options, **changes)
    if plan is None:
        net = network(model, asked)
    else:
        chosen = ChannelPlan.load(plan)
        shape = chosen.network.input_shape
        spec = NetworkSpec(model, asked.width_mult, chosen.network.num_classes, shape)
        net = build_network(spec)
        chosen.check_fits(net.sizes(), model)
        widths = chosen.widths()
    cost = NetworkCost(net)
    layers = cost.layer_costs(widths)
    return {
        "model": model,
        "macs": cost.macs_at(widths),
        "params": cost.params(widths),
        "activation_bytes": sum(layer.activation_bytes for layer in layers),
        "layers": [asdict(layer) for layer in layers],
    }


def flops_table(counted: dict[str, Any]) -> str:
    """Returns what `flops` counted as text."""
    rows: list[tuple[str, ...]] = [("layer", "kind", "in", "out", "MACs", "params", "activations")]
    for layer in [*counted["layers"], {**counted, "name": "in all", "kind": ""}]:
        rows.append(
            (
                layer["name"],
                layer["kind"],
                str(layer.get("in_channels", "")),
                str(layer.get("out_channels", "")),
                f"{layer['macs']:,}",
                f"{layer['params']:,}",
                format_bytes(layer["activation_bytes"]),
            )
        )
    return (
        f"{columns(rows, right=(2, 3, 4, 5, 6))}\n{format_macs(counted['macs'])} multiply-adds of"
        " convolution and linear layers for one image; params in all include normalisation"
    )


def nothing_to_narrow(network: Network) -> DmcpError:
    """Returns the error that every channel of a network is held, with the first reasons."""
    reasons = [f"{group.name} ({group.reason})" for group in network.groups]
    more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    held = f"held are {', '.join(reasons[:3])}{more}" if reasons else "none of its layers is known"
    return DmcpError(f"{network.spec.model} has no channel group that can be narrowed: {held}.")
