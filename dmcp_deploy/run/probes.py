"""Makes probe networks: ONNX files of one network at drawn widths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dmcp_deploy.bench.tables.probes import (
    FILE,
    LayerForm,
    ProbeSet,
    Widths,
)
from dmcp_deploy.bench.tables.template import FILE as TEMPLATE
from dmcp_deploy.bench.tables.template import FULL, OpenTemplate, narrow_onnx, open_template
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.layers import WEIGHTED
from dmcp_deploy.network.listing import nothing_to_narrow
from dmcp_deploy.network.models import build_network
from dmcp_deploy.options.measure import FEWEST_PROBES, MOST_PROBES
from dmcp_deploy.plan import NetworkSpec
from dmcp_deploy.progress import NO_PROGRESS, Progress
from dmcp_deploy.run.forms import layer_form, probed_groups
from dmcp_deploy.run.template import NoTemplateError, export_probe, make_template
from dmcp_deploy.search.fit import WidthGrid, width_grid
from dmcp_deploy.search.space import SearchSpace, search_space


def make_probes(
    spec: NetworkSpec,
    folder: Path,
    *,
    count: int = 16,
    align: int = 8,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> ProbeSet:
    """Writes the probe networks of a network into a folder; goes on where a killed call stopped.

    The first is the full network. Each of the others has its widths drawn by `draw_units`, from
    all that a plan may have. The batch axis is left open, as `export` leaves it.

    Args:
        spec: The full network.
        folder: Where the ONNX files and what they are go.
        count: How many networks, the full one included.
        align: Widths are multiples of it where a group is larger.
        seed: The seed of the widths.
        progress: Told of each network.

    Raises:
        DmcpError: The network is unknown or has nothing to narrow, the count or the alignment is
            out of range, or the folder holds other probes.
    """
    _check(count, align)
    network = build_network(spec)
    if not network.prunable:
        raise nothing_to_narrow(network)
    probes = _describe(network, count, align, seed)
    _begin(probes, folder)
    missing = [name for name in probes.widths if not (folder / f"{name}.onnx").is_file()]
    if missing:
        _write(network, probes, missing, folder, progress)
    return probes


def draw_units(space: SearchSpace, grid: WidthGrid, count: int, seed: int) -> np.ndarray:
    """Returns units for every group, shape [count, groups], by Latin hypercube sampling.

    For each group the allowed widths are cut into `count` even parts, each network takes one of
    another part, and the parts are shuffled for each group on its own: every group sees its whole
    range evenly, and the input and output widths of a layer vary apart.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for axis in grid.axes():
        places = (rng.permutation(count) + rng.random(count)) / count * len(axis)
        columns.append(np.array(axis)[np.minimum(places.astype(np.int64), len(axis) - 1)])
    assert len(columns) == len(space.names)
    return np.stack(columns, axis=1)


def layer_forms(network: Network) -> dict[str, LayerForm]:
    """Returns for each weighted layer how its channels follow from the widths of the groups."""
    return {
        layer.name: layer_form(layer, network)
        for layer in network.layers.values()
        if layer.kind in WEIGHTED
    }


def _check(count: int, align: int) -> None:
    if not FEWEST_PROBES <= count <= MOST_PROBES:
        raise DmcpError(f"--probes {count} must lie in {FEWEST_PROBES}..{MOST_PROBES}.")
    if align < 1:
        raise DmcpError(f"--align {align} is too small: it must be at least 1.")


def _describe(network: Network, count: int, align: int, seed: int) -> ProbeSet:
    space = search_space(network)
    drawn = draw_units(space, width_grid(space, align), count - 1, seed)
    groups = probed_groups(network)
    widths: dict[str, Widths] = {"full": {name: group.size for name, group in groups.items()}}
    for number, units in enumerate(drawn, start=1):
        widths[f"probe{number:03d}"] = space.widths(units)
    return ProbeSet(network.spec, align, seed, groups, layer_forms(network), widths)


def _write(
    network: Network, probes: ProbeSet, missing: Sequence[str], folder: Path, progress: Progress
) -> None:
    """Writes the probes that are missing: by the template, or each by an export of its own."""
    template = _template(network, folder, progress)
    count = len(probes.widths)
    with progress.task("probe networks", count, count - len(missing), unit="net") as bar:
        for name in missing:
            path = folder / f"{name}.onnx"
            if template is None:
                export_probe(network, probes.widths[name], path)
            elif path.name != FULL:
                narrow_onnx(template, probes.widths[name], path)
            bar.advance()


def _template(network: Network, folder: Path, progress: Progress) -> OpenTemplate | None:
    """Returns the template in a folder, made if it is missing; None if the network has none."""
    try:
        if not ((folder / TEMPLATE).exists() and (folder / FULL).exists()):
            make_template(network, folder, progress=progress)
    except NoTemplateError as err:
        progress.say(f"{err} Every probe network is exported on its own, which takes longer.")
        return None
    return open_template(folder)


def _begin(probes: ProbeSet, folder: Path) -> None:
    """Notes what the probes are, or checks that those that lie there are the same."""
    if (folder / FILE).exists():
        if ProbeSet.load(folder) != probes:
            raise DmcpError(
                f"{folder} holds other probe networks (model, number, alignment or seed): choose"
                " another folder, or delete that one."
            )
        return
    if folder.is_dir() and any(path.suffix != ".part" for path in folder.iterdir()):
        raise DmcpError(f"{folder} holds files, and no probe networks: choose another folder.")
    probes.save(folder)
