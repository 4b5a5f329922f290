"""Where searched plans, and uniform ones, rank among random plans on the searched supernets.

    python benchmarks/ranking.py --out benchmarks/results/ranking.json
    python benchmarks/ranking.py --report benchmarks/results/ranking.json

It reads what `benchmarks/fashion_mnist.py` has left in its runs folder: of every search the shared
weights, and of every trained plan its accuracy. A plan is judged on the supernet by its loss on
2,000 test images, batch norms recalibrated for it; nothing is trained again. Beside the ranks it
tells how well that loss foretells the accuracy of the plans when they are trained from scratch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

RANDOM_PLANS = 20
_IMAGES = 2000
_RECALIBRATION_BATCHES = 8


def main() -> None:
    """Ranks every search and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--searches", type=Path, default=Path("benchmarks/results/fashion_mnist.json")
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ranking.json"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", type=Path, help="Print what these results come to.")
    options = parser.parse_args()
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    content = json.loads(options.searches.read_text())
    keys = [key.split("/") for key in content["results"] if key.endswith("/search")]
    jobs = [(budget, int(seed), content, str(options.runs)) for budget, seed, _ in sorted(keys)]
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(_rank, jobs))
    from dmcp_deploy.artifact import write_text

    write_text(options.out, json.dumps(rows, indent=1) + "\n")
    print(report(rows))


def report(rows: list[dict[str, Any]]) -> str:
    """Returns what the ranks come to at each budget as a Markdown table."""
    head = (
        *("budget", "searches", f"DMCP beats, of {RANDOM_PLANS} random plans", "uniform beats"),
        *("loss of uniform minus DMCP", "correlation of loss and top-1"),
    )
    budgets = sorted({row["budget"] for row in rows})
    lines = [_line(budget, [row for row in rows if row["budget"] == budget]) for budget in budgets]
    table = [head, ("---",) * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _line(budget: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    wins = [
        [sum(row["losses"][plan] < loss for loss in row["random"]) for row in rows]
        for plan in _SHOWN
    ]
    losses = [[row["losses"][plan] for row in rows] for plan in _SHOWN]
    gains = [uniform - dmcp for dmcp, uniform in zip(*losses, strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    correlations = [row["correlation"] for row in rows]
    return (
        budget,
        str(len(rows)),
        *(f"{min(won)} to {max(won)}" for won in wins),
        f"{statistics.fmean(gains):.4f} ± {error:.4f}",
        f"{min(correlations):.2f} to {max(correlations):.2f}",
    )


_SHOWN = ("dmcp expected", "uniform")


def _rank(job: tuple[str, int, dict[str, Any], str]) -> dict[str, Any]:
    import fashion_mnist
    import torch

    from dmcp_deploy.data.loader import eval_batches, train_batches
    from dmcp_deploy.search.fit import fit_widths
    from dmcp_deploy.training.weights import load_weights, read_tensors

    torch.set_num_threads(1)
    budget, seed, content, runs = job
    asked = content["options"]
    options = {
        **{name: int(asked[name]) for name in ("search_steps", "full_steps", "train_steps")},
        "width_mult": float(asked["width_mult"]),
        "runs": Path(runs),
    }
    problem = fashion_mnist._problem(budget, seed, "expected", options)
    checkpoint = problem.folder / "checkpoints" / "search.safetensors"
    tensors = read_tensors(checkpoint)
    own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    load_weights(problem.network.model, own, str(checkpoint))
    recalibration = list(
        train_batches(
            problem.data,
            image_size=32,
            batch_size=128,
            seed=seed,
            start_step=0,
            steps=_RECALIBRATION_BATCHES,
        )
    )
    images = list(eval_batches(problem.data.val, image_size=32, batch_size=500, limit=_IMAGES))
    generator = torch.Generator().manual_seed(9000 + seed)
    random = []
    for _ in range(RANDOM_PLANS):
        wanted = problem.space.random_units(generator).astype(float)
        units = fit_widths(problem.limits, problem.grid, wanted)
        random.append(_loss(problem, problem.space.widths(units), recalibration, images))
    trained = {
        name: content["results"][f"{budget}/{seed}/{name}"]
        for name in fashion_mnist.PLANS
        if f"{budget}/{seed}/{name}" in content["results"]
    }
    losses = {
        name: _loss(problem, found["widths"], recalibration, images)
        for name, found in trained.items()
    }
    accuracies = [found["top1"] for found in trained.values()]
    return {
        "budget": budget,
        "seed": seed,
        "random": random,
        "losses": losses,
        "top1": {name: found["top1"] for name, found in trained.items()},
        "correlation": statistics.correlation([-x for x in losses.values()], accuracies),
    }


def _loss(
    problem: Any, widths: dict[str, int], recalibration: list[Any], images: list[Any]
) -> float:
    """Returns a plan's loss with the supernet's weights."""
    from dmcp_deploy.network.slicing import slice_network
    from dmcp_deploy.training.evaluate import evaluate, recalibrate

    dense = slice_network(problem.network, widths)
    recalibrate(dense, recalibration, problem.precision)
    return evaluate(dense, images, problem.precision).loss


if __name__ == "__main__":
    main()
