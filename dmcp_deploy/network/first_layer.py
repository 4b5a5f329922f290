"""How many channels a network reads, where its first layers say so."""

from __future__ import annotations

from torch import nn

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.trace import Trace
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.units import format_input


def check_channels(trace: Trace, spec: NetworkSpec) -> None:
    """Checks that the convolutions that read the input take its channels.

    Raises:
        DmcpError: They take another number.
    """
    channels, *sides = spec.input_shape
    for name, wanted in _first_channels(trace).items():
        if wanted not in (0, channels):  # a lazy convolution has 0
            told = ": grey pictures are shown on all three" if (channels, wanted) == (1, 3) else ""
            height, width = sides
            raise DmcpError(
                f"{spec.model} reads {wanted} channel{'s' * (wanted > 1)} ({name} is its first"
                f" layer), and the input is {format_input(spec.input_shape)}: give --input"
                f" {format_input((wanted, height, width))}{told}."
            )


def _first_channels(trace: Trace) -> dict[str, int]:
    """Returns the channels that each convolution reads that stands right behind the input."""
    readers = [user for n in trace.graph.nodes if n.op == "placeholder" for user in n.users]
    targets = [str(node.target) for node in readers if node.op == "call_module"]
    first = {target: trace.modules.get(target) for target in targets}
    return {name: int(m.in_channels) for name, m in first.items() if isinstance(m, nn.Conv2d)}
