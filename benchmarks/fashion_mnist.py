"""Is the search worth it? DMCP, uniform and random widths at equal MACs on Fashion-MNIST.

    python benchmarks/fashion_mnist.py --out benchmarks/results/fashion_mnist.json

For every seed the full network is trained once. From its weights, channels sorted by importance,
one search is done for every budget; its plan by expected sampling, its plan by Markov sampling,
the uniform plan and two random plans of the same budget are then trained from scratch by the same
recipe and judged on the 10,000 test images. A killed run continues where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

PLANS = ("dmcp expected", "dmcp markov", "uniform", "random 1", "random 2")
#: Row of the table -> the plans it is the mean of, seed by seed.
ARMS = {
    "dmcp expected": ("dmcp expected",),
    "dmcp markov": ("dmcp markov",),
    "uniform": ("uniform",),
    "random": ("random 1", "random 2"),
}
MODEL = "networks:small_mobilenet"
WAVES = ("full", "search", "train")  # each needs what the one before has left


def main() -> None:
    """Runs what is missing and writes the results."""
    options = _options()
    budgets = options.budgets.split(",")
    results = _load(options.out)
    for wave in WAVES:
        names = PLANS if wave == "train" else (wave,)
        jobs = [
            (budget, seed, name, vars(options))
            for seed in range(options.seeds)
            for budget in (budgets if wave != "full" else ("100%",))
            for name in names
            if _key(budget, seed, name) not in results
        ]
        with ProcessPoolExecutor(options.jobs) as pool:
            for key, value in pool.map(_work, jobs):
                results[key] = value
                print(key, value.get("top1", value.get("expected_share")), flush=True)
                _save(options, results)
    _save(options, results)
    print(report(json.loads(options.out.read_text())))


def report(content: dict[str, Any]) -> str:
    """Returns the results as a Markdown table with paired differences and 95% intervals."""
    lines = ["| budget | arm | top-1 (mean ± deviation) | minus random | minus uniform |"]
    lines.append("|---|---|---|---|---|")
    for budget in content["options"]["budgets"].split(","):
        for arm in ARMS:
            own = _top1(content, budget, arm)
            cells = [f"{statistics.fmean(own):.2f} ± {statistics.stdev(own):.2f} ({len(own)})"]
            for other in ("random", "uniform"):
                cells.append("" if arm == other else _difference(content, budget, arm, other))
            lines.append(f"| {budget} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fashion_mnist.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/fashion_mnist"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", default="25%,10%")
    parser.add_argument("--width-mult", type=float, default=2.0)
    parser.add_argument("--full-steps", type=int, default=1200, help="0 searches from scratch")
    parser.add_argument("--search-steps", type=int, default=1000)
    parser.add_argument("--train-steps", type=int, default=1200)
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args()


def _key(budget: str, seed: int, arm: str) -> str:
    return f"{budget}/{seed}/{arm}"


def _work(job: tuple[str, int, str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    budget, seed, arm, options = job
    import torch

    torch.set_num_threads(1)
    works = {"full": _train_full, "search": _search}
    work = works.get(arm)
    done = work(budget, seed, options) if work is not None else _train(*job)
    return _key(budget, seed, arm), done


def _problem(budget: str, seed: int, sampling: str, options: dict[str, Any]) -> Any:
    from dmcp_deploy.data.datasets import open_data
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.options.run import Compute
    from dmcp_deploy.plan import NetworkSpec
    from dmcp_deploy.rundir.request import RunRequest
    from dmcp_deploy.search.costs.asked import asked_budgets
    from dmcp_deploy.search.problem import SearchProblem
    from dmcp_deploy.search.run import plan_problem
    from dmcp_deploy.training.precision import choose_precision

    spec = NetworkSpec(MODEL, options["width_mult"], 10, (3, 32, 32))
    network = build_network(spec, seed)
    recipe = _recipe(options)
    budgets = asked_budgets(flops=budget)
    accounting, space, grid, limits = plan_problem(network, budgets, 1, recipe)
    return SearchProblem(
        network=network,
        accounting=accounting,
        space=space,
        grid=grid,
        limits=limits,
        data=open_data("fashion-mnist"),
        recipe=recipe,
        request=RunRequest(
            network=spec,
            budget=budget,
            data_digest="",
            weights_digest=None,
            recipe={"full_steps": options["full_steps"]},
            seed=seed,
            sampling=sampling,
            max_steps=options["search_steps"],
        ),
        compute=Compute(),
        precision=choose_precision("auto", "fp32"),
        folder=options["runs"] / f"{budget}-{seed}",
    )


def _recipe(options: dict[str, Any]) -> Any:
    from dmcp_deploy.training.recipe import RECIPES, Schedule

    return replace(
        RECIPES["small"],
        search=Schedule(100, 64, 0.01, 0.05, 0.0005, 0.05, 1e-4),
        train=Schedule(100, 128, 0.02, 0.2, 0.0, 0.05, 1e-4),
        label_smoothing=0.0,
    )


def _train_full(budget: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Trains the full network of a seed, leaves its weights behind, and returns its accuracy."""
    from dmcp_deploy.training.weights import save_weights

    problem = _problem(budget, seed, "expected", options)
    steps = options["full_steps"]
    found = _trained(problem, problem.network.model, "full", steps, seed)
    save_weights(problem.network.model, _full_weights(seed, options))
    return found


def _full_weights(seed: int, options: dict[str, Any]) -> Path:
    return Path(options["runs"]) / f"full-{seed}.safetensors"


def _search(budget: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the widths by expected and by Markov sampling of one search."""
    from dmcp_deploy.network.importance import sorted_tensors
    from dmcp_deploy.search import dmcp
    from dmcp_deploy.training.weights import load_weights, read_tensors

    plans: dict[str, Any] = {}
    for sampling in ("expected", "markov"):  # the second resumes at the end of the first
        problem = _problem(budget, seed, sampling, options)
        if options["full_steps"]:
            path = _full_weights(seed, options)
            load_weights(problem.network.model, read_tensors(path), str(path))
            load_weights(problem.network.model, sorted_tensors(problem.network), "sorted")
        result = dmcp.search(problem)
        plans[f"dmcp {sampling}"] = dict(result.widths)
        plans["expected_share"] = result.figures["expected_share"]
    return plans


def _train(budget: str, seed: int, plan: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the accuracy of one plan, trained from scratch."""
    from dmcp_deploy.network.models import build_network
    from dmcp_deploy.network.slicing import slice_network

    problem = _problem(budget, seed, "expected", options)
    widths = _widths(problem, budget, seed, plan, options)
    dense = slice_network(build_network(problem.network.spec, seed + 1000), widths)
    found = _trained(problem, dense, f"train-{plan}", options["train_steps"], seed + 1000)
    return {**found, "macs": problem.accounting.macs_at(widths), "widths": widths}


def _trained(problem: Any, model: Any, name: str, steps: int, seed: int) -> dict[str, Any]:
    """Trains a network in place; returns its accuracy on the test images."""
    from dmcp_deploy.data.loader import eval_batches, train_batches
    from dmcp_deploy.training.dense import DenseTask
    from dmcp_deploy.training.evaluate import evaluate
    from dmcp_deploy.training.loop import LoopSettings, run_loop

    title = name.replace(" ", "-")
    settings = LoopSettings(
        title=title,
        steps=steps,
        seed=problem.request.seed,
        token=f"{title}-{steps}",
        checkpoint=problem.folder / f"{title}.st",
        metrics=problem.folder / f"{title}.jsonl",
    )
    run_loop(
        DenseTask(model, problem.recipe, steps, problem.precision),
        lambda start: train_batches(
            problem.data,
            image_size=32,
            batch_size=problem.recipe.train.batch_size,
            seed=seed,
            start_step=start,
            steps=steps - start,
        ),
        settings,
    )
    batches = eval_batches(problem.data.val, image_size=32, batch_size=500)
    return asdict(evaluate(model, batches, problem.precision))


def _widths(
    problem: Any, budget: str, seed: int, arm: str, options: dict[str, Any]
) -> dict[str, int]:
    import torch

    from dmcp_deploy.search.baselines import search_uniform
    from dmcp_deploy.search.fit import fit_widths

    if arm == "uniform":
        return dict(search_uniform(problem).widths)
    if arm.startswith("random"):
        number = int(arm.split()[1])
        generator = torch.Generator().manual_seed(1000 * number + seed)
        wanted = problem.space.random_units(generator)
        units = fit_widths(problem.limits, problem.grid, wanted)
        return dict(problem.space.widths(units))
    return dict(_load(options["out"])[_key(budget, seed, "search")][arm])


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["results"] if path.exists() else {}


def _save(options: argparse.Namespace, results: dict[str, Any]) -> None:
    from dmcp_deploy.artifact import write_text
    from dmcp_deploy.machine.environment import read_environment

    shown = {k: str(v) for k, v in vars(options).items() if k not in ("out", "runs", "jobs")}
    content = {"options": shown, "environment": read_environment(), "results": results}
    write_text(options.out, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _top1(content: dict[str, Any], budget: str, arm: str) -> list[float]:
    results, plans = content["results"], ARMS[arm]
    seeds = range(int(content["options"]["seeds"]))
    return [
        statistics.fmean(100 * results[_key(budget, seed, plan)]["top1"] for plan in plans)
        for seed in seeds
    ]


def _difference(content: dict[str, Any], budget: str, arm: str, other: str) -> str:
    """Returns the mean paired difference with its 95% interval (Student's t)."""
    pairs = zip(_top1(content, budget, arm), _top1(content, budget, other), strict=True)
    found = [a - b for a, b in pairs]
    quantile = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306}
    half = quantile.get(len(found), 2.262) * statistics.stdev(found) / math.sqrt(len(found))
    mean = statistics.fmean(found)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


if __name__ == "__main__":
    main()
