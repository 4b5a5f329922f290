"""Probe networks: one network at many widths, whose layers a latency table is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import read_artifact, write_artifact
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

    inputs: WidthForm
    outputs: WidthForm

    def to_json(self) -> dict[str, Any]:
        """Returns the form as JSON values."""
        return {
            side: {"fixed": form.fixed, "per_unit": dict(form.per_unit)}
            for side, form in (("in", self.inputs), ("out", self.outputs))
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LayerForm:
        """Returns the form that `to_json` wrote."""
        return cls(*(_form(content[side]) for side in ("in", "out")))


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

    network: NetworkSpec
    align: int
    seed: int
    groups: Mapping[str, ProbedGroup]
    forms: Mapping[str, LayerForm]
    widths: Mapping[str, Widths]

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
        write_artifact(folder / FILE, KIND, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the set as JSON values."""
        return {
            "model": self.network.to_json(),
            "align": self.align,
            "seed": self.seed,
            "groups": {name: dict(vars(group)) for name, group in self.groups.items()},
            "layers": {name: form.to_json() for name, form in self.forms.items()},
            "probes": {name: dict(widths) for name, widths in self.widths.items()},
        }

    @classmethod
    def load(cls, folder: Path) -> ProbeSet:
        """Returns what the probes in a folder are.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version.
        """
        path = folder / FILE
        content = read_artifact(path, KIND)
        try:
            return cls(
                network=NetworkSpec.from_json(content["model"]),
                align=int(content["align"]),
                seed=int(content["seed"]),
                groups=read_groups(content["groups"]),
                forms={name: LayerForm.from_json(f) for name, f in content["layers"].items()},
                widths={name: read_widths(w) for name, w in content["probes"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise DmcpError(f"{path} lacks or misstates {err}.") from err
        except DmcpError as err:
            raise DmcpError(f"{path} is not valid: {err}") from err


def read_groups(content: Mapping[str, Any]) -> dict[str, ProbedGroup]:
    """Returns the groups in JSON values."""
    return {name: ProbedGroup(int(g["size"]), int(g["unit"])) for name, g in content.items()}


def read_widths(content: Mapping[str, Any]) -> dict[str, int]:
    """Returns group -> channels from JSON values."""
    return {name: int(width) for name, width in content.items()}


def check_form(form: LayerForm, channels: Sequence[tuple[int, int]], probes: ProbeSet) -> bool:
    """Returns whether a form gives the channels that a layer has in each probe."""
    return list(channels) == [
        (form.inputs.at(widths, probes.groups), form.outputs.at(widths, probes.groups))
        for widths in probes.widths.values()
    ]


def _form(content: Mapping[str, Any]) -> WidthForm:
    return WidthForm(int(content["fixed"]), read_widths(content["per_unit"]))
