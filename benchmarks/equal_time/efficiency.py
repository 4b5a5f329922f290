"""Deployed efficiency of plans at 224 px: the share of multiply-adds over the share of the time.

One where time fell as much as the multiply-adds; less where it fell less.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dmcp_deploy.bench.record import BenchRecord, compare

RUNTIMES = ("onnxruntime", "openvino")
#: Below the folder of results: plans of other sources, measured as certificates are.
KNOWN = "latency_known"


def efficiency(results: Path) -> str:
    """Returns the efficiency of all plans that were measured, as a Markdown table.

    Read are budgets in time as certified (`latency_promise.json`), plans of other sources
    (`measure_known`), and those of FLOPs budgets (`throughput/`). The last were measured in turn
    with others that drive them from the caches, which makes small networks look slower.
    """
    lines = ["| network | runtime | plan | MACs kept | time | efficiency |", "|---" * 6 + "|"]
    for model, runtime, plan, macs, time in (*_promised(results), *_measured(results)):
        cells = (model, runtime, plan, f"{macs:.1%}", f"{time:.1%}", f"{macs / time:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_known(results: Path, seconds: float) -> None:
    """Measures MobileNetV2 0.5x and the DMCP authors' 87M plan beside 1.0x, where not done yet."""
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.options.measure import Setting
    from dmcp_deploy.options.run import Compute
    from dmcp_deploy.plan import NetworkSpec
    from dmcp_deploy.run.certificates import measure
    from dmcp_deploy.run.template import export_probe

    missing = [r for r in RUNTIMES if not (results / KNOWN / f"mobilenet_v2-{r}.json").exists()]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        published = _published(folder)
        networks = {"1.0x": (1.0, {}), "uniform 0.5x": (0.5, {}), "DMCP's 87M": (1.5, published)}
        files = {name: folder / f"{number}.onnx" for number, name in enumerate(networks)}
        for name, (width, widths) in networks.items():
            export_probe(build_network(NetworkSpec("mobilenet_v2", width)), widths, files[name])
        for runtime in missing:
            record = measure(files, Setting(runtime, threads=1), Compute(certify_s=seconds))
            (results / KNOWN).mkdir(parents=True, exist_ok=True)
            record.save(results / KNOWN / f"mobilenet_v2-{runtime}.json")


def _published(folder: Path) -> dict[str, int]:
    """Returns the widths of the authors' plan, which is one of the network of width 1.5."""
    from dmcp_deploy.plan import NetworkSpec
    from dmcp_deploy.published.importing import import_plan

    sys.path.insert(0, str(Path(__file__).parents[2] / "tests/helpers"))
    from published_plans import DMCP_MOBILENET, mobilenet_dict, save_npy

    path = save_npy(folder / "published.npy", mobilenet_dict(DMCP_MOBILENET))
    return import_plan(path, NetworkSpec("mobilenet_v2", 1.5)).widths()


def _promised(results: Path) -> Iterator[tuple[str, str, str, float, float]]:
    path = results / "latency_promise.json"
    for name, row in (json.loads(path.read_text())["rows"] if path.exists() else {}).items():
        model, share, runtime = name.rsplit("-", 2)
        told = row["certificate"]
        time = told["measured_ms"] / told["full_ms"]
        yield model, runtime, f"--latency {share}%", row["macs_share"], time


def _measured(results: Path) -> Iterator[tuple[str, str, str, float, float]]:
    for folder, how in ((KNOWN, ""), ("throughput", ", in turn")):
        for path in sorted((results / folder).glob("*.json")):
            model, _, runtime = path.stem.rpartition("-")
            if runtime in RUNTIMES:
                for one in compare(BenchRecord.load(path), 1):
                    yield model, runtime, f"{one.name}{how}", one.flops_ratio, one.latency_ratio
