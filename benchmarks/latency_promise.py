"""Budgets in milliseconds: asked, predicted, measured, and measured again by another process.

    python benchmarks/latency_promise.py --out benchmarks/results/latency_promise.json

Every search is a short one of the method that is asked for, at 224 pixels on pictures of
Fashion-MNIST: what is on trial is the promise of time, not the accuracy. The latency table of each
network and runtime is built first where there is none. Results are written after every run, and
a run that was stopped goes on. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.certificate import Certificate
from dmcp_deploy.bench.ratio import latency_ratio
from dmcp_deploy.bench.record import BenchRecord
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.run import Compute
from dmcp_deploy.run.certificates import measure

#: Network -> shares of its time. DenseNet concatenates, MobileNetV3 squeezes and excites.
CASES = {
    "mobilenet_v2": ("70%", "50%", "35%"),
    "resnet50": ("60%", "40%"),
    "densenet121": ("60%",),
    "mobilenet_v3_small": ("60%",),
}
RUNTIMES = ("onnxruntime", "openvino")
THREADS = 1
STEPS, BATCH = 12, 4


@dataclass(frozen=True)
class Case:
    """One promise."""

    model: str
    share: str
    runtime: str

    @property
    def name(self) -> str:
        """What its run directory is called."""
        return f"{self.model}-{self.share.rstrip('%')}-{self.runtime}"


def main() -> None:
    """Keeps every promise that the results lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/latency_promise"))
    parser.add_argument("--method", default="dmcp")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--models", nargs="*", default=list(CASES))
    parser.add_argument("--runtimes", nargs="*", default=list(RUNTIMES))
    parser.add_argument("--report", action="store_true", help="Print the results' table alone.")
    parser.add_argument("--again", type=Path, help="Measure the networks of one run once more.")
    args = parser.parse_args()
    if args.again:
        print(json.dumps(again(args.again)))
        return
    results: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.report:
        print(report(results["rows"]))
        return
    results |= {
        "command": "python benchmarks/latency_promise.py",
        "environment": read_environment(),
    }
    rows = results.setdefault("rows", {})
    for model in args.models:
        for case in (Case(model, s, r) for s in CASES[model] for r in args.runtimes):
            if case.name not in rows:
                rows[case.name] = keep(case, args.runs / case.name, args.method, args.data)
                write_text(args.out, json.dumps(results, indent=1) + "\n")
            print(case.name, json.dumps(rows[case.name]), flush=True)


def keep(case: Case, out: Path, method: str, data: str) -> dict[str, Any]:
    """Returns what one search promised and what was measured of it, twice."""
    target = ["--runtime", case.runtime, "--threads", str(THREADS)]
    searched = [
        "search",
        "--model",
        case.model,
        "--latency",
        case.share,
        *target,
        "--out",
        str(out),
    ]
    trial = ["--method", method, "--data", data, "--max-steps", str(STEPS), "--batch-size"]
    _run(*searched, *trial, str(BATCH), "--no-rehearse")
    certificate, plan = (
        json.loads((out / name).read_text()) for name in ("certificate.json", "plan.json")
    )
    record = out / "in_turn.json"
    _run("bench", str(out / "plan.json"), *target, "--seconds", "10", "--save", str(record))
    again = subprocess.run(
        [sys.executable, __file__, "--again", str(out), "--out", "-"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {
        "certificate": _brief(certificate),
        "first": _first(Certificate.load(out / "certificate.json")),
        "rounds": len(certificate["rounds"]),
        "macs_share": plan["macs"] / plan["full_macs"],
        "again": json.loads(again.stdout.splitlines()[-1]),
        "in_turn": _ratio(BenchRecord.load(record)),
    }


def report(rows: dict[str, Any]) -> str:
    """Returns the results as a Markdown table; efficiency is MACs ratio over latency ratio."""
    lines = [
        "| network, runtime | asked | first plan: predicted, measured | kept plan: measured [95%]"
        " | verdict | plans | MACs kept | efficiency | a fresh process |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        told = row["certificate"]
        limit, full = told["limit_ms"], told["full_ms"]
        ratio, (low, high) = told["measured_ms"] / full, told["interval_ms"]
        cells = [
            f"{name.split('-')[0]}, {told['setting']['runtime']}",
            f"{told['asked']}, {limit:.3g} ms",
            "{predicted:.1%}, {measured:.1%}".format(**row["first"]),
            f"{told['measured_ms']:.3g} ms [{low:.3g}, {high:.3g}], {ratio:.1%}",
            told["verdict"],
            str(row["rounds"]),
            f"{row['macs_share']:.1%}",
            f"{row['macs_share'] / ratio:.2f}",
            f"{row['again']['ratio']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def again(run: Path) -> dict[str, Any]:
    """Returns the ratio of a run's networks, measured once more as a certificate measures."""
    certificate = Certificate.load(run / "certificate.json")
    files = {"original": run / "plan/original.onnx", "pruned": run / "plan/model.onnx"}
    return _ratio(measure(files, certificate.setting, Compute()))


def _first(certificate: Certificate) -> dict[str, float]:
    """Returns what the table said of the first plan, and what was measured: shares of the whole."""
    plan, seen = certificate.rounds[0], certificate.seen[0]
    assert seen is not None
    full_ms = certificate.full_ms
    return {"predicted": plan.table_ms / full_ms, "measured": seen.ms / full_ms}


def _brief(certificate: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in certificate.items() if k not in ("rounds", "kind", "schema")}


def _ratio(record: BenchRecord) -> dict[str, float]:
    """Returns the pruned network's latency over the full one's, with its 95% interval."""
    full, pruned = record.measured
    ratio = latency_ratio(full.samples_ms, pruned.samples_ms)
    return {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}


def _run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dmcp_deploy", *words], check=True)


if __name__ == "__main__":
    main()
