"""Probe networks: one network at many widths, whose layers a latency table is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmcp_deploy.artifact import encode, load_artifact, write_artifact
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.plan import NetworkSpec

KIND = "table-probes"
FILE = "probes.json"

Widths = Mapping[str, int]


@dataclass(frozen=True)
class ProbedGroup:
    """A channel group that the probes narrow.

    Attributes:
        size: Its channels in the full network.
        unit: Channels that can only go together.
    """

    size: int
    unit: int


@dataclass(frozen=True)
class WidthForm:
    """A layer's width as it follows from those of the groups.

    Attributes:
        fixed: Channels that are always there.
        per_unit: Group -> channels of the layer for each unit that the group keeps.
    """

    fixed: int
    per_unit: Mapping[str, int]

    def at(self, widths: Widths, groups: Mapping[str, ProbedGroup]) -> int:
        """Returns the layer's channels at the groups' widths in channels."""
        kept = (widths[name] // groups[name].unit * n for name, n in self.per_unit.items())
        return self.fixed + sum(kept)


@dataclass(frozen=True)
class LayerForm:
    """A layer's input and output channels as they follow from the widths of the groups."""

    inputs: WidthForm = field(metadata={"json": "in"})
    outputs: WidthForm = field(metadata={"json": "out"})


@dataclass(frozen=True)
class ProbeSet:
    """What the probe networks in a folder are.

    Attributes:
        network: The full network.
        align: Widths are multiples of it where a group is larger.
        seed: The seed that the widths were drawn from.
        groups: The groups that are narrowed.
        forms: Layer -> how its channels follow from the groups' widths.
        widths: Probe -> group -> channels kept; the first probe is the full network.
    """

    network: NetworkSpec = field(metadata={"json": "model"})
    align: int
    seed: int
    groups: Mapping[str, ProbedGroup]
    forms: Mapping[str, LayerForm] = field(metadata={"json": "layers"})
    widths: Mapping[str, Widths] = field(metadata={"json": "probes"})

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise DmcpError(f"There are {len(self.widths)} probes, and 2 or more are needed.")
        for name, widths in self.widths.items():
            if set(widths) != set(self.groups):
                raise DmcpError(f"The probe {name} has other groups than the network.")

    def files(self, folder: Path) -> dict[str, Path]:
        """Returns probe -> its ONNX file.

        Raises:
            DmcpError: One is not there.
        """
        files = {name: folder / f"{name}.onnx" for name in self.widths}
        for path in files.values():
            if not path.is_file():
                raise DmcpError(
                    f"There is no probe network {path}: make them with dmcp-deploy table probes."
                )
        return files

    def save(self, folder: Path) -> None:
        """Writes what the probes are beside them."""
        write_artifact(folder / FILE, KIND, encode(self))

    @classmethod
    def load(cls, folder: Path) -> ProbeSet:
        """Returns what the probes in a folder are.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version.
        """
        return load_artifact(folder / FILE, KIND, cls)


def check_form(form: LayerForm, channels: Sequence[tuple[int, int]], probes: ProbeSet) -> bool:
    """Returns whether a form gives the channels that a layer has in each probe."""
    return list(channels) == [
        (form.inputs.at(widths, probes.groups), form.outputs.at(widths, probes.groups))
        for widths in probes.widths.values()
    ]
