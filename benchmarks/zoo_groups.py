"""Which channels of timm's CNNs can go, here and in Torch-Pruning: makes docs/zoo.md.

    python benchmarks/zoo_groups.py [MODEL ...]

For each network, at the smallest of some input sizes that it takes: the share of the channels of
its convolutions and linear layers (the logits excluded) that lie in a group which can be narrowed,
and the CPU time on one thread that finding the groups takes. Here the sliced network is compared
with the supernet at random widths. Torch-Pruning's pruner takes half of the channels of every one
of its groups; what it leaves is run, and must return as many logits as before. A network of its
own is built for each. One network of a family is tried; the largest are left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning
from torch import Tensor, nn

from dmcp_deploy import __version__
from dmcp_deploy.artifact import write_text
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.derive import trace_network
from dmcp_deploy.network.graph import Network
from dmcp_deploy.network.slicing import slice_network
from dmcp_deploy.network.supernet import Supernet
from dmcp_deploy.plan import NetworkSpec

CLASSES = 10
WARM_UP = "resnet18"
#: Of CPU time for Torch-Pruning: one of its graphs had not ended behind minutes, at 5 GB.
LIMIT_S = 10
SIDES = (64, 128, 224, 256)
RESULTS = Path("benchmarks/results/zoo_groups.json")
PAGE = Path("docs/zoo.md")
#: What makes channels, so that they are counted.
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)

MODELS = (
    *("convmixer_768_32", "convnext_atto", "convnextv2_atto", "cspdarknet53", "cspresnet50"),
    *("darknet53", "densenet121", "dla34", "dm_nfnet_f0", "dpn68", "eca_nfnet_l0"),
    *("edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0"),
    *("efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_dw", "fasternet_t0", "fastvit_t8"),
    *("fbnetc_100", "focalnet_tiny_srf", "gcresnet33ts", "gernet_s", "ghostnet_100", "hgnetv2_b0"),
    *("hrnet_w18_small", "inception_next_atto", "inception_v4", "lambda_resnet26t", "lcnet_050"),
    *("legacy_seresnet18", "levit_conv_128s", "mambaout_femto", "mixnet_s"),
    *("mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "mobileone_s0", "mobilevit_xxs"),
    *("mobilevitv2_050", "nf_regnet_b0", "nf_resnet50", "poolformer_s12", "pvt_v2_b0"),
    *("rdnet_tiny", "regnety_002", "regnetz_c16", "repghostnet_050", "repvgg_a0", "repvit_m0_9"),
    *("res2net50_26w_4s", "resnest14d", "resnetblur50", "resnetv2_50x1_bit", "rexnet_100"),
    *("selecsls42", "shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs"),
    *("tf_efficientnet_cc_b0_4e", "tiny_vit_5m_224", "tinynet_e", "tresnet_m", "visformer_tiny"),
    *("vovnet39a", "xception41", "bat_resnext26ts", "botnet26t_256", "coatnet_pico_rw_224"),
    *("convformer_s18", "halonet26t"),
)


@dataclass(frozen=True)
class Row:
    """What was found for one network.

    Attributes:
        model: timm's name.
        side: Of its input, in pixels.
        channels: Of its convolutions and linear layers, without the logits.
        free: Those that can go here.
        held: Reason -> how many stay for it.
        graph: Why the dense network is its graph; None if it is of the stock class.
        difference: Between supernet and sliced network, in units of the largest logit.
        ours_s: CPU time to find the groups.
        theirs_free: Channels in Torch-Pruning's groups.
        theirs_s: CPU time of its graph and groups.
        theirs_error: What it, or the network that it pruned, raised; None if that runs.
    """

    model: str
    side: int
    channels: int
    free: int
    held: dict[str, int]
    graph: str | None
    difference: float
    ours_s: float
    theirs_free: int
    theirs_s: float
    theirs_error: str | None


def main() -> None:
    """Tries the networks, writes the raw figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="default: one of each family")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _row(WARM_UP)
    versions = {
        "version": __version__,
        "torch": torch.__version__.partition("+")[0],
        "timm": timm.__version__,
        "torch_pruning": torch_pruning.__version__,
    }
    rows: list[Row] = []
    for name in options.models or MODELS:
        rows.append(_told(name))
        raw = {**versions, "rows": [asdict(row) for row in rows]}
        write_text(options.results, json.dumps(raw, indent=1) + "\n")
        write_text(options.out, page(rows, versions))


def _told(name: str) -> Row:
    row = _row(name)
    gc.collect()
    print(
        f"{name}: {row.free / row.channels:.0%} here, {row.theirs_free / row.channels:.0%} there,"
        f" {row.theirs_error or 'runs'}; {row.held}",
        flush=True,
    )
    return row


def _row(name: str) -> Row:
    side, network, seconds = _network(name)
    widths = _random_widths(network)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    made, held = _made(network), _held(network)
    channels = sum(_channels(network.model, made).values())
    free, graph = network.free_channels, network.graph_reason
    with torch.no_grad():
        logits = Supernet(network)(images, widths)
        sliced = slice_network(network, widths).eval()(images)
    difference = float((logits - sliced).abs().max() / logits.abs().max())
    del network
    theirs_free, theirs_s, error = _torch_pruning(name, side, made)
    row = (name, side, channels, free, held, graph, difference, seconds)
    return Row(*row, theirs_free, theirs_s, error)


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def _network(name: str) -> tuple[int, Network, float]:
    """Returns the smallest size that a network takes, its groups, and the time they took."""
    for side in SIDES:
        model = _model(name)
        spec = NetworkSpec(f"timm:{name}", num_classes=CLASSES, input_shape=(3, side, side))
        start = time.process_time()
        try:
            return side, trace_network(model, spec), time.process_time() - start
        except DmcpError:
            if side == SIDES[-1]:
                raise
    raise AssertionError


def _random_widths(network: Network) -> dict[str, int]:
    draw = random.Random(0)
    return {g.name: g.unit * draw.randint((g.units + 1) // 2, g.units) for g in network.prunable}


def _made(network: Network) -> set[str]:
    """Returns the layers of a network that make channels, without the one of the logits."""
    model = network.model
    names = {name for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    listed = {layer for group in network.groups for layer in group.layers}
    known = {n for n, layer in network.layers.items() if layer.outputs is not None}
    return names - (known - listed)


def _channels(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    modules = dict(model.named_modules())
    return {n: getattr(modules[n], "out_channels", 0) or modules[n].out_features for n in names}


def _held(network: Network) -> dict[str, int]:
    """Returns reason -> the channels that stay for it, those of untraced modules included."""
    held: dict[str, int] = {}
    channels = _channels(network.model, _made(network))
    reasons: dict[str, str] = {}
    for group in network.groups:
        for layer in group.layers:
            if group.reason:
                reasons[layer] = group.reason
    for name, count in channels.items():
        layer = network.layers.get(name)
        free = 0 if layer is None or layer.outputs is None else int((layer.outputs >= 0).sum())
        if free < count:
            reason = reasons.get(name, "it is in a module that is kept whole")
            held[reason] = held.get(reason, 0) + count - free
    return held


def _torch_pruning(name: str, side: int, made: set[str]) -> tuple[int, float, str | None]:
    """Returns channels in Torch-Pruning's groups, its time, and what came of pruning by half."""
    model = _model(name)
    images = torch.randn(2, 3, side, side)
    last = [m for n, m in model.named_modules() if isinstance(m, WEIGHTED) and n not in made]
    names = {module: n for n, module in model.named_modules()}
    channels = _channels(model, made)
    free: dict[str, int] = {}
    start = time.process_time()
    try:
        with _limit():
            graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=images)
            for group in graph.get_all_groups(ignored_layers=last):
                for dependency, _ in group:
                    layer = names.get(dependency.target.module, "")
                    if layer in channels and graph.is_out_channel_pruning_fn(dependency.handler):
                        free[layer] = channels[layer]
    except Exception as err:  # whatever a foreign network's trace raises
        return 0, time.process_time() - start, _words(err)
    seconds = time.process_time() - start
    return sum(free.values()), seconds, _pruned_by_half(model, images, last)


def _pruned_by_half(model: nn.Module, images: Tensor, last: list[nn.Module]) -> str | None:
    options = {"pruning_ratio": 0.5, "ignored_layers": last}
    importance = torch_pruning.importance.MagnitudeImportance()
    try:
        with _limit():
            torch_pruning.pruner.MagnitudePruner(model, images, importance, **options).step()
            logits = model(images)
    except Exception as err:  # whatever a foreign network raises when its layers do not fit
        return _words(err)
    return None if logits.shape == (len(images), CLASSES) else f"logits {tuple(logits.shape)}"


@contextmanager
def _limit() -> Iterator[None]:
    """Ends what takes longer than LIMIT_S of CPU time.

    Raises:
        TimeoutError: It did.
    """

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s of CPU time")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _words(err: Exception) -> str:
    first = str(err).strip().partition("\n")[0]
    return f"{type(err).__name__}: {first[:100]}" if first else type(err).__name__


def page(rows: list[Row], versions: dict[str, Any]) -> str:
    """Returns the table and what it says in all, as Markdown."""
    ours = [row.free / row.channels for row in rows]
    runs = [row for row in rows if row.theirs_error is None]
    graphs = sum(row.graph is not None for row in rows)
    quicker = sum(row.ours_s < row.theirs_s for row in rows)
    lines = [
        "# What was tried on timm's CNNs, and Torch-Pruning beside it",
        "",
        f"Made by `python benchmarks/zoo_groups.py` (dmcp-deploy {versions['version']}, torch"
        f" {versions['torch']}, timm {versions['timm']}, Torch-Pruning"
        f" {versions['torch_pruning']}); raw figures in `{RESULTS}`. {len(rows)} networks, about"
        " one of each family, with random weights, at the smallest of some input sizes.",
        "",
        "- **free**: the share of the channels of convolutions and linear layers, the logits"
        " excluded, that can go here; **graph**: the dense network is the traced graph"
        " ([why](groups.md)).",
        "- **difference**: supernet against sliced network at random widths, in units of the"
        " largest logit.",
        "- **theirs**: the share of channels in Torch-Pruning's groups; **halved**: what came of"
        " its pruner taking half of every group: whether the network still runs, and what it"
        " raises where it does not.",
        "- **ms**: CPU time on one thread to find the groups, once each, behind a network that"
        " pays for what is done once in a process.",
        "",
        f"In {sum(share == 1 for share in ours)} networks every channel can go, in"
        f" {sum(share >= 0.9 for share in ours)} at least 90%; the largest difference is"
        f" {max(row.difference for row in rows):.1g}. {graphs} are their graph when pruned."
        f" Torch-Pruning lists at least 90% in"
        f" {sum(row.theirs_free >= 0.9 * row.channels for row in rows)}, and {len(runs)} of the"
        f" networks run when it has halved them. Groups are found in less time here in {quicker}.",
        "",
        "| network | px | channels | free | graph | difference | theirs | halved | ms"
        " | theirs ms |",
        "|---|---:|---:|---:|---|---:|---:|---|---:|---:|",
        *map(_line, rows),
        "",
        "## Who is right where the two differ",
        "",
        "Here every freed channel is tried: supernet and sliced network agree (**difference**)."
        " Where Torch-Pruning's halved network does not run, its groups miss a tie, or a number of"
        " channels in the forward pass. Of the networks that run halved"
        f" {_more(runs, ours=True)} here and {_more(runs, ours=False)} there have more free"
        " channels than the other way finds; that a halved network runs does not tell that it"
        " computes the same.",
        "",
        "## Channels that stay",
        "",
        *(
            f"- {row.model}: {count} of {row.channels}, because {reason}."
            for row in rows
            for reason, count in row.held.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _more(rows: list[Row], *, ours: bool) -> int:
    sign = 1 if ours else -1
    return sum(sign * (row.free - row.theirs_free) > 0.005 * row.channels for row in rows)


def _line(row: Row) -> str:
    cells = (
        row.model,
        row.side,
        row.channels,
        f"{row.free / row.channels:.1%}",
        "yes" if row.graph else "",
        f"{row.difference:.0e}" if row.difference else "0",
        f"{row.theirs_free / row.channels:.1%}",
        "runs" if row.theirs_error is None else row.theirs_error.replace("|", "/"),
        round(1000 * row.ours_s),
        round(1000 * row.theirs_s),
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
