"""Makes the template of a network's ONNX file from a few exports at different widths."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from dmcp_deploy.artifact import digest_file
from dmcp_deploy.bench.tables.counting import are_told_apart, find_counting
from dmcp_deploy.bench.tables.probes import ProbedGroup, WidthForm, Widths
from dmcp_deploy.bench.tables.template import FULL, Template
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.export.to_onnx import export_onnx
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.onnxgraph.alike import UnlikeError, check_same, renamed, unshared
from dmcp_deploy.onnxgraph.file import write_onnx
from dmcp_deploy.onnxgraph.load import load_onnx
from dmcp_deploy.onnxgraph.narrowing import BETWEEN, NarrowableGraph, read_numbers
from dmcp_deploy.progress import NO_PROGRESS, Bar, Progress
from dmcp_deploy.run.forms import all_forms, probed_groups

#: Narrower networks that are exported to learn from.
_FEWEST, _MOST = 2, 6
#: Draws of widths that are tried before one more network is exported.
_DRAWS = 100


class NoTemplateError(DmcpError):
    """A network's graph changes in other ways than by the widths of its groups."""


def make_template(
    network: Network, folder: Path, *, seed: int = 0, progress: Progress = NO_PROGRESS
) -> Template:
    """Writes a network's ONNX file and its template into a folder.

    Which numbers of the graph follow from which groups is told by exports at drawn widths. The
    template is checked on one more export: what it makes at those widths must be the same graph.

    Args:
        network: The full network.
        folder: Where the files go.
        seed: The seed of the widths.
        progress: Told of each export.

    Raises:
        NoTemplateError: The graph does not follow from the widths; the full network's file is
            written.
        DmcpError: The network cannot be exported, or a file cannot be written.
    """
    groups, forms = probed_groups(network), all_forms(network)
    *learnt, last = _telling_widths(groups, forms, seed)
    with progress.task("ONNX template", len(learnt) + 2, unit="export") as bar:
        full = _exported(network, {}, bar)
        write_onnx(full, folder / FULL)
        try:
            models = [full, *(renamed(_exported(network, w, bar), full) for w in learnt)]
            template = _template(network, groups, forms, models, learnt, digest_file(folder / FULL))
            narrow = NarrowableGraph(full, template.forgotten).at(template.numbers(last))
            check_same(narrow, renamed(_exported(network, last, bar), full))
        except UnlikeError as err:
            raise NoTemplateError(str(err)) from err
    template.save(folder)
    return template


def export_probe(network: Network, widths: Widths, path: Path) -> None:
    """Writes the ONNX file of a network sliced to some widths, its weights unlike one another.

    Of a fresh network the exporter drops biases of zero and norms that change nothing; a trained
    one has them.
    """
    dense = slice_network(network, widths).eval()
    _make_unlike(dense)
    export_onnx(dense, path, input_shape=network.spec.input_shape)


def _exported(network: Network, widths: Widths, bar: Bar) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_probe(network, widths, path)
        bar.advance()
        return unshared(load_onnx(path))


def _make_unlike(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
                tensor += 0.1 * torch.rand(tensor.shape, generator=draw).to(tensor)


def _template(
    network: Network,
    groups: Mapping[str, ProbedGroup],
    forms: Sequence[WidthForm],
    models: Sequence[ModelProto],
    learnt: Sequence[Widths],
    digest: str,
) -> Template:
    whole = {name: group.size for name, group in groups.items()}
    seen = [read_numbers(model) for model in models]
    counting = find_counting(seen, [whole, *learnt], groups, forms)
    untold = [slot for slot in counting.untold if slot.kind != BETWEEN]
    if untold:
        raise NoTemplateError(
            f"How {untold[0].name} of the network's graph follows from its widths cannot be told."
        )
    forgotten = tuple(dict.fromkeys(slot.name for slot in counting.untold))
    return Template(network.spec, digest, groups, counting.counts, counting.rules, forgotten)


def _telling_widths(
    groups: Mapping[str, ProbedGroup], forms: Sequence[WidthForm], seed: int
) -> list[Widths]:
    """Returns widths at which no two forms look the same, and some more to check them at.

    Raises:
        NoTemplateError: There are none.
    """
    rng = np.random.default_rng(seed)
    whole = {name: group.size for name, group in groups.items()}
    for count, _ in itertools.product(range(_FEWEST, _MOST + 1), range(_DRAWS)):
        drawn = [_drawn(groups, rng) for _ in range(count)]
        if are_told_apart(forms, [whole, *drawn], groups):
            return [*drawn, _drawn(groups, rng)]
    raise NoTemplateError("The groups are too small to tell them apart by their widths.")


def _drawn(groups: Mapping[str, ProbedGroup], rng: np.random.Generator) -> Widths:
    """Returns widths, of a single unit only where there are few: axes of 1 are special in ONNX."""
    units = {name: group.size // group.unit for name, group in groups.items()}
    return {
        name: groups[name].unit * int(rng.integers(1 if number < 4 else 2, number + 1))
        for name, number in units.items()
    }
