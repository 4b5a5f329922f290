"""`check` on all of torchvision's CNNs and on timm's, a family each.

    python benchmarks/zoo_check.py --out benchmarks/results/zoo_check.json [MODEL ...]

Every network goes the whole chain, one step of each loop on noise: search (uniform), slice, train,
export, FP16, BF16, INT8, and an engine where a TensorRT is installed. A network that is in the file
already is not tried again, so a run that was stopped continues. With --table it prints the file as
a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from zoo import SIDES, TIMM

from dmcp_deploy.artifact import write_text
from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.network.models import model_names
from dmcp_deploy.options.run import RunOptions
from dmcp_deploy.run.check import check

SIDE = 96


def main() -> None:
    """Tries every network that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/zoo_check.json"))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    rows = json.loads(asked.out.read_text())["networks"] if asked.out.exists() else {}
    if asked.table:
        print(table(rows))
        return
    for name in asked.models or (*model_names(), *TIMM):
        if name in rows and not asked.models:
            continue
        rows[name] = tried(name)
        print(name, json.dumps(rows[name]), flush=True)
        content = {
            "environment": read_environment(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "side": SIDE,
            "networks": rows,
        }
        write_text(asked.out, json.dumps(content, indent=1))


def tried(name: str) -> dict[str, Any]:
    """Returns what `check` says of a network: a refusal, or the time and fault of every part."""
    side, started = SIDES.get(name, SIDE), time.perf_counter()
    options = RunOptions(method="uniform", input_size=side, batch_size=4)
    try:
        found = check(name, classes=10, options=options)
    except DmcpError as err:
        return {"side": side, "refused": str(err), "seconds": time.perf_counter() - started}
    groups = found.network.groups
    return {
        "side": side,
        "channels": sum(group.size for group in groups),
        "prunable": sum(group.size for group in found.network.prunable),
        "parts": {phase.name: round(phase.seconds, 2) for phase in found.phases},
        "faults": {phase.name: phase.fault for phase in found.phases if phase.fault},
        "seconds": round(time.perf_counter() - started, 2),
    }


def table(rows: dict[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    lines = ["| network | prunable | seconds | |", "|---|---|---|---|"]
    for name, row in rows.items():
        share = f"{row['prunable'] / row['channels']:.0%}" if row.get("channels") else ""
        faults = "; ".join(f"{part}: {fault}" for part, fault in row.get("faults", {}).items())
        said = row.get("refused") or faults or "works"
        lines.append(f"| {name} | {share} | {row['seconds']:.1f} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
