"""What several budgets from one supernet cost, beside one budget and separate runs.

    python benchmarks/multi_budget.py --out benchmarks/results/multi_budget.json

For each share of the search that is stage 2, on Fashion-MNIST: three budgets from one stage 1, and
the same three in runs of their own, searched and trained. Times are the process's own seconds
(CPU time), so that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

MODEL = "networks:small_mobilenet"


def main() -> None:
    """Runs all searches and trainings, and writes the results."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:  # what is done once in a process is done
        _measure(
            Path(folder), 0.5, argparse.Namespace(budgets="50%", search_epochs=0.01, epochs=0.01)
        )
    results = []
    for share in options.shares.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results.append(_measure(Path(folder), float(share), options))
        print(_line(results[-1]), flush=True)
    _save(options, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/multi_budget.json"))
    parser.add_argument("--budgets", default="50%,30%,15%")
    parser.add_argument("--shares", default="0.5,0.2,0.1", help="of the search: stage 2")
    parser.add_argument("--search-epochs", type=float, default=0.64)
    parser.add_argument("--epochs", type=float, default=0.5)
    return parser.parse_args()


def _measure(folder: Path, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the costs of the searches in seconds, and plans and accuracies of both ways."""
    budgets = options.budgets.split(",")
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({"base": "small", "architecture_share": share}))
    shared, shared_s = _searched(folder / "shared", options.budgets, recipe, options)
    alone, alone_s = [], []
    for budget in budgets:
        runs, seconds = _searched(folder / "alone" / budget, budget, recipe, options)
        alone += runs
        alone_s.append(seconds)
    return {
        "architecture_share": share,
        "shared_s": shared_s,
        "alone_s": alone_s,
        "budgets": budgets,
        "equal_plans": [
            _bytes(a, "plan.json") == _bytes(b, "plan.json")
            for a, b in zip(shared, alone, strict=True)
        ],
        "shared_top1": [_trained(run) for run in shared],
        "alone_top1": [_trained(run) for run in alone],
    }


def _searched(
    out: Path, flops: str, recipe: Path, options: argparse.Namespace
) -> tuple[list[Any], float]:
    from dmcp_deploy.run import api
    from dmcp_deploy.run.budgets import for_each_budget

    started = time.process_time()
    runs = for_each_budget(
        api.search,
        MODEL,
        flops,
        out=out,
        data="fashion-mnist",
        input_size=32,
        recipe=str(recipe),
        init="sliced",
        search_epochs=options.search_epochs,
        train_epochs=options.epochs,
    )
    return runs, time.process_time() - started


def _trained(run: Any) -> float:
    """Returns the accuracy of a run's pruned network on 10,000 images, after its training."""
    from dmcp_deploy.run import api

    api.slice(run.path)
    api.train(run.path)
    return float(run.figures("train")["accuracy"]["top1"])


def _bytes(run: Any, name: str) -> bytes:
    return bytes(run.file(name).read_bytes())


def _line(found: dict[str, Any]) -> str:
    one = sum(found["alone_s"]) / len(found["alone_s"])
    top1 = ", ".join(
        f"{b} {s:.2%} / {a:.2%}"
        for b, s, a in zip(found["budgets"], found["shared_top1"], found["alone_top1"], strict=True)
    )
    return (
        f"| {found['architecture_share']:g} | {found['shared_s']:.0f} s | {one:.0f} s"
        f" | {found['shared_s'] / one:.2f} | {sum(found['alone_s']) / one:.2f} | {top1} |"
    )


def _save(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    from dmcp_deploy.artifact import write_text
    from dmcp_deploy.machine.environment import read_environment

    asked = {k: str(v) for k, v in vars(options).items() if k != "out"}
    content = {"options": asked, "environment": read_environment(), "results": results}
    write_text(options.out, json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
