"""What latency tables predict of plans, against what these plans' networks take.

    python benchmarks/table_prediction.py --out benchmarks/results/table_prediction.json

Builds a table of each network in each runtime, then measures plans that it knows nothing of, each
right beside the full network: some are drawn, and some chosen for the most worth in a predicted
time, as a search chooses them, which looks for what a predictor takes for too fast. They are
predicted from single layers alone (before) and as whole plans correct them (after). Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dmcp_deploy.artifact import write_text
from dmcp_deploy.bench.artifacts import FileArtifact
from dmcp_deploy.bench.tables.draw import draw_plans
from dmcp_deploy.bench.tables.measure_plans import measure_plans
from dmcp_deploy.bench.tables.model import LatencyModel, latency_model
from dmcp_deploy.bench.tables.probes import Widths
from dmcp_deploy.bench.tables.table import LatencyTable, PlanTimes
from dmcp_deploy.bench.tables.template import FULL, narrow_onnx, open_template
from dmcp_deploy.machine.environment import read_environment
from dmcp_deploy.options.measure import PLANS, Setting
from dmcp_deploy.options.run import Compute
from dmcp_deploy.plan import ChannelPlan
from dmcp_deploy.progress import TerminalProgress
from dmcp_deploy.run.tables import table_build, table_probes

#: Of the plans that are predicted; those that correct the table have another.
SEED = 7
#: Shares of the full network's time that plans are chosen for.
SHARES = (0.35, 0.8)


def main() -> None:
    """Builds the tables, measures the plans, writes both and prints the errors."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        tables = [
            _measure(model, runtime, work, options)
            for model in options.models.split(",")
            for runtime in options.runtimes.split(",")
        ]
    content = {"environment": read_environment(), "threads": options.threads, "tables": tables}
    write_text(options.out, json.dumps(content) + "\n")
    print(report(tables))


def report(tables: Sequence[dict[str, Any]]) -> str:
    """Returns the errors of the ratios to the full network as a Markdown table."""
    lines = [
        "| network | runtime | plans | before: median | worst | bias | after: median | worst | bias"
        " | spread of a plan's passes | table's own estimate (90%) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for table in tables:
        for name in dict.fromkeys(row["plans"] for row in table["rows"]):
            rows = [row for row in table["rows"] if row["plans"] == name]
            cells = [table["model"], table["runtime"], f"{len(rows)} {name}"]
            for when in ("before", "after"):
                errors = np.array([row[when] / row["measured"] - 1 for row in rows])
                middle, worst = np.median(np.abs(errors)), np.abs(errors).max()
                cells += [f"{middle:.1%}", f"{worst:.1%}", f"{errors.mean():+.1%}"]
            spread = np.median([max(row["passes"]) / min(row["passes"]) - 1 for row in rows])
            cells += [f"{spread:.1%}", f"{table['error_share']:.1%}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def choose_plans(model: LatencyModel, count: int, seed: int) -> list[Widths]:
    """Returns plans that keep the most worth in a predicted time, greedily.

    Each starts whole and gives up, step by step, what costs the least worth for the time saved; the
    worth of a group is drawn, and falls with the logarithm of its channels.
    """
    rng = np.random.default_rng(seed)
    return [
        _choose(model, share * model.full_ms, rng.lognormal(0, 0.7, len(model.groups)))
        for share in np.linspace(*SHARES, count)
    ]


def _choose(model: LatencyModel, limit_ms: float, worth: np.ndarray) -> Widths:
    edges = model.edges()
    offered = {name: [w for w in widths if w >= 0.1 * widths[-1]] for name, widths in edges.items()}
    at = {name: len(widths) - 1 for name, widths in offered.items()}
    worths = dict(zip(offered, worth, strict=True))
    while (taken_ms := _ms(model, offered, at)) > limit_ms:
        gains = {}
        for name in (name for name, place in at.items() if place > 0):
            kept, less = offered[name][at[name]], offered[name][at[name] - 1]
            saved = taken_ms - _ms(model, offered, {**at, name: at[name] - 1})
            gains[name] = saved / (worths[name] * np.log(kept / less))
        at[max(gains, key=lambda name: gains[name])] -= 1
    return {name: widths[at[name]] for name, widths in offered.items()}


def _ms(model: LatencyModel, offered: dict[str, list[int]], at: dict[str, int]) -> float:
    widths = {name: options[at[name]] for name, options in offered.items()}
    return float(model.ms(*model.channels(widths)))


def _measure(model: str, runtime: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    compute, folder = Compute(progress=TerminalProgress()), work / f"{model}-probes"
    known = table_probes(model, folder, compute=compute)
    setting = Setting(runtime=runtime, threads=options.threads)
    out = work / f"{model}-{runtime}-{options.threads}.json"
    started = time.monotonic()
    if out.exists():
        table = LatencyTable.load(out)
    else:
        table = table_build(
            folder, out, plans=options.table_plans, options=setting, compute=compute
        )
    built_s = time.monotonic() - started
    before, after = latency_model(replace(table, plans=())), latency_model(table)
    plans = {
        "drawn": draw_plans(before, options.plans, seed=SEED),
        "chosen": choose_plans(after, options.plans, SEED),
    }
    files = [ChannelPlan.load(path) for path in options.files]
    if of_model := [plan for plan in files if plan.network == known.network]:
        plans["of files"] = [
            {name: plan.widths()[name] for name in known.groups} for plan in of_model
        ]
    labels = [name for name, some in plans.items() for _ in some]
    times = _time(folder, [widths for some in plans.values() for widths in some], setting, options)
    rows = [_row(*pair, before, after) for pair in zip(labels, times, strict=True)]
    return {
        "model": model,
        "runtime": runtime,
        "ran_by": table.ran_by,
        "table_s": round(built_s, 1),
        "error_share": after.error_share,
        "rows": rows,
    }


def _time(
    folder: Path, plans: Sequence[Widths], setting: Setting, options: argparse.Namespace
) -> Sequence[PlanTimes]:
    template = open_template(folder)

    def file(path: Path) -> FileArtifact:
        return FileArtifact(path, setting.runtime, setting.threads)

    with tempfile.TemporaryDirectory() as scratch:

        def make(number: int) -> FileArtifact:
            narrow_onnx(template, plans[number], Path(scratch, "plan.onnx"))
            return file(Path(scratch, "plan.onnx"))

        return measure_plans(
            file(folder / FULL),
            plans,
            make,
            template.template.network.input_shape,
            setting,
            Path(scratch, "part.json"),
            passes=options.passes,
            progress=TerminalProgress(),
        )


def _row(label: str, times: PlanTimes, before: LatencyModel, after: LatencyModel) -> dict[str, Any]:
    return {
        "plans": label,
        "widths": dict(times.widths),
        "measured": times.ratio,
        "passes": times.ratios,
        "before": float(before.ms(*before.channels(times.widths))) / before.full_ms,
        "after": float(after.ms(*after.channels(times.widths))) / after.full_ms,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/table_prediction.json")
    )
    parser.add_argument("--models", default="mobilenet_v2,resnet50")
    parser.add_argument("--runtimes", default="onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table-plans", type=int, default=PLANS, help="That correct a table.")
    parser.add_argument("--plans", type=int, default=20, help="Drawn, and as many chosen.")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="Plans of searches.")
    parser.add_argument("--passes", type=int, default=5, help="Times that a plan is measured.")
    parser.add_argument("--work", type=Path, help="Keep probes and tables here, and go on there.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
