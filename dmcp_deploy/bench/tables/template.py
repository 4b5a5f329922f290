"""A network's ONNX file as a template: its graph at any widths of the groups, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dmcp_deploy.artifact import digest_file, encode, load_artifact, write_artifact
from dmcp_deploy.bench.tables.probes import ProbedGroup, WidthForm, Widths
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.onnxgraph.narrowing import NarrowableGraph, Slot
from dmcp_deploy.plan import NetworkSpec

KIND = "onnx-template"
FILE = "template.json"
#: The full network's file, beside the template.
FULL = "full.onnx"


@dataclass(frozen=True)
class Count:
    """A number of a graph as it follows from the widths of the groups: times / over x channels.

    Attributes:
        channels: Channels that follow from the groups.
        times: What they are multiplied by, as by the pixels of a plane that is flattened.
        over: What that is divided by, as by the number of equal parts.
    """

    channels: WidthForm
    times: int = 1
    over: int = 1

    def at(self, widths: Widths, groups: Mapping[str, ProbedGroup]) -> int:
        """Returns the number at the groups' widths in channels.

        Raises:
            DmcpError: It is no whole number there.
        """
        number, rest = divmod(self.channels.at(widths, groups) * self.times, self.over)
        if rest:
            raise DmcpError(
                f"The network cannot have these widths: {self.channels.at(widths, groups)}"
                f" channels x {self.times} are no multiple of {self.over}."
            )
        return number


@dataclass(frozen=True)
class Rule:
    """A number that changes with the widths: where it stands, and which of the counts it is."""

    slot: Slot
    count: int


@dataclass(frozen=True)
class Template:
    """What it takes to narrow a network's ONNX file.

    Attributes:
        network: The full network.
        digest: Of the full network's file, which the template belongs to.
        groups: The groups that can be narrowed.
        counts: How numbers follow from the groups' widths.
        rules: The numbers of the graph that change.
        forgotten: Values between operators of which the full network's shape alone is known.
    """

    network: NetworkSpec = field(metadata={"json": "model"})
    digest: str
    groups: Mapping[str, ProbedGroup]
    counts: tuple[Count, ...]
    rules: tuple[Rule, ...]
    forgotten: tuple[str, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= rule.count < len(self.counts) for rule in self.rules):
            raise DmcpError("A rule of the template names a count that it has not.")

    def numbers(self, widths: Widths) -> dict[Slot, int]:
        """Returns the numbers of the graph at the groups' widths in channels.

        Args:
            widths: Group -> channels; those that are not given, or not narrowed, stay whole.

        Raises:
            DmcpError: A width is none that the group can have.
        """
        kept = {name: widths.get(name, group.size) for name, group in self.groups.items()}
        for name, group in self.groups.items():
            if not 0 < kept[name] <= group.size or kept[name] % group.unit:
                raise DmcpError(
                    f"The group {name} cannot have {kept[name]} channels: it has {group.size} and"
                    f" goes by {group.unit}."
                )
        values = [count.at(kept, self.groups) for count in self.counts]
        return {rule.slot: values[rule.count] for rule in self.rules}

    def save(self, folder: Path) -> None:
        """Writes the template beside the full network's file."""
        write_artifact(folder / FILE, KIND, encode(self))

    @classmethod
    def load(cls, folder: Path) -> Template:
        """Returns the template in a folder.

        Raises:
            DmcpError: The file is absent, damaged, of another kind or schema version.
        """
        return load_artifact(folder / FILE, KIND, cls)


@dataclass(frozen=True)
class OpenTemplate:
    """A template with the full network's graph in memory.

    Attributes:
        template: How the graph narrows.
        graph: The full network's.
    """

    template: Template
    graph: NarrowableGraph


def open_template(folder: Path) -> OpenTemplate:
    """Returns the template in a folder of probe networks, ready to make ONNX files.

    Raises:
        DmcpError: The template or the full network's file is absent or damaged, or they do not
            belong together.
    """
    template = Template.load(folder)
    path = folder / FULL
    if path.is_file() and digest_file(path) != template.digest:
        raise DmcpError(
            f"{path} is not the file that {folder / FILE} was made of: make the probe networks"
            " again with dmcp-deploy table probes."
        )
    return OpenTemplate(template, NarrowableGraph(load_onnx(path), template.forgotten))


def narrow_onnx(template: OpenTemplate, widths: Widths, path: Path) -> None:
    """Writes a network's ONNX file at given widths; its weights are leading parts of the full ones.

    It holds the layers that an export of the sliced network has. Its logits are those of that
    network only where no layer reads several groups side by side; its time is the same anyway.

    Args:
        template: An open template.
        widths: Group -> channels; those that are not given stay whole.
        path: The file to write.

    Raises:
        DmcpError: A width is none that the group can have, or the file cannot be written.
    """
    template.graph.write(template.template.numbers(widths), path)
