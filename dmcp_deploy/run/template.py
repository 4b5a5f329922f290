"""Makes the template of a network's ONNX file from a few exports at different widths."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.tables.probes import ProbedGroup, WidthForm, Widths
from dmcp_deploy.bench.tables.template import FULL, Count, Rule, Template
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.network.graph import Network, Units
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.onnxgraph.narrowing import BETWEEN, Slot, read_numbers
from dmcp_deploy.progress import NO_PROGRESS, Progress

#: Exports of narrower networks at most, the one that the template is checked on included.
_MOST_EXPORTS = 6
_FEWEST_EXPORTS = 3

Numbers = Mapping[Slot, int]


def make_template(
    network: Network, folder: Path, *, seed: int = 0, progress: Progress = NO_PROGRESS
) -> Template:
    """Writes a network's ONNX file and its template into a folder.

    Which numbers of the graph follow from which groups is told by exports at drawn widths, and
    checked on one more export that it was not told by.

    Args:
        network: The full network.
        folder: Where the files go.
        seed: The seed of the widths.
        progress: Told of each export.

    Raises:
        DmcpError: The network cannot be exported, or its graph is not told by its widths.
    """
    groups = {group.name: ProbedGroup(group.size, group.unit) for group in network.prunable}
    full_path = folder / FULL
    full = _export(network, {}, full_path)
    learnt: list[tuple[Widths, Numbers]] = [(_full_widths(groups), read_numbers(full))]
    forms = _forms(network, groups)
    with tempfile.TemporaryDirectory() as scratch:
        for number, widths in enumerate(_drawn(groups, seed), start=1):
            model = _export(network, widths, Path(scratch) / "narrow.onnx")
            _check_alike(full, model)
            seen = read_numbers(model)
            if number >= _FEWEST_EXPORTS:
                template = _template(network, groups, forms, learnt, digest_file(full_path))
                if template is not None and _tells(template, widths, learnt[0][1], seen):
                    template.save(folder)
                    return template
            learnt.append((widths, seen))
    raise DmcpError("How the graph of the network follows from its widths could not be told.")


def _export(network: Network, widths: Widths, path: Path) -> ModelProto:
    dense = _unlike(slice_network(network, widths)).eval()
    export_onnx(dense, path, input_shape=network.spec.input_shape)
    return load_onnx(path)


def _unlike(model: nn.Module) -> nn.Module:
    """Returns a network in which no tensor is all zeros or all ones, as trained ones are."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
                tensor += 0.1 * torch.rand(tensor.shape, generator=draw).to(tensor)
    return model


def _full_widths(groups: Mapping[str, ProbedGroup]) -> Widths:
    return {name: group.size for name, group in groups.items()}


def _drawn(groups: Mapping[str, ProbedGroup], seed: int) -> Iterator[Widths]:
    rng = np.random.default_rng(seed)
    for _ in range(_MOST_EXPORTS):
        yield {
            name: group.unit
            * int(rng.integers(min(2, group.size // group.unit), group.size // group.unit + 1))
            for name, group in groups.items()
        }


def _check_alike(full: ModelProto, model: ModelProto) -> None:
    if _operators(full) != _operators(model):
        raise DmcpError("The exported graph has other operators at other widths.")


def _operators(model: ModelProto) -> list[tuple[object, ...]]:
    return [
        (
            node.domain,
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            tuple(sorted(a.name for a in node.attribute)),
        )
        for node in model.graph.node
    ]


def _forms(network: Network, groups: Mapping[str, ProbedGroup]) -> list[WidthForm]:
    single = [WidthForm(0, {name: group.unit}) for name, group in groups.items()]
    arrays: list[Units | None] = []
    for layer in network.layers.values():
        arrays += [layer.outputs, layer.inputs]
        arrays += [units for cuts in layer.cuts.values() for _, units in cuts]
    arrays += [units for _, units in network.parameters.values()]
    arrays += [units for units, _ in network.gates.values()]
    forms = [_form(units, network) for units in arrays if units is not None]
    return [*single, *forms]


def _form(units: Units, network: Network) -> WidthForm:
    counts = np.bincount(units[units >= 0].reshape(-1), minlength=network.unit_count)
    per_unit = {group.name: int(counts[group.first]) for group in network.prunable}
    fixed = int((units < 0).sum())
    return WidthForm(fixed, {name: number for name, number in per_unit.items() if number})


def _template(
    network: Network,
    groups: Mapping[str, ProbedGroup],
    forms: Sequence[WidthForm],
    learnt: Sequence[tuple[Widths, Numbers]],
    digest: str,
) -> Template | None:
    candidates = {}
    for form in forms:
        vector = tuple(form.at(widths, groups) for widths, _ in learnt)
        candidates.setdefault(_direction(vector), (vector, form))
    counts: dict[tuple[int, ...], int] = {}
    listed: list[Count] = []
    rules = []
    for slot in learnt[0][1]:
        vector = tuple(numbers.get(slot, 0) for _, numbers in learnt)
        if len(set(vector)) == 1:
            continue
        if vector not in counts:
            known = candidates.get(_direction(vector))
            if known is None:
                if slot.kind == BETWEEN:
                    continue
                return None
            base, form = known
            common = gcd(vector[0], base[0])
            counts[vector] = len(listed)
            listed.append(Count(form, vector[0] // common, base[0] // common))
        rules.append(Rule(slot, counts[vector]))
    return Template(network.spec, digest, groups, tuple(listed), tuple(rules))


def _direction(vector: Sequence[int]) -> tuple[int, ...]:
    common = gcd(*vector) or 1
    return tuple(number // common for number in vector)


def _tells(template: Template, widths: Widths, full: Numbers, seen: Numbers) -> bool:
    told = {**full, **template.numbers(widths)}

    return all(told.get(slot) == number for slot, number in seen.items())
