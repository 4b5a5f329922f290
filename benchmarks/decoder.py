"""Decoding under limits: is it optimal, how long it takes, and what it gains over fitting.

    python benchmarks/decoder.py --out benchmarks/results/decoder.json

Small random cases are held against all their plans. MobileNetV2 and ResNet-50 are decoded under
their multiply-adds, under a random staircase in place of latency, and under both. Under FLOPs
budgets alone, plans are compared with those of `fit_widths` for the probabilities of random
architecture parameters: by their log probability, and by their relative distance (root mean
square over groups) from the expected widths, scaled to the budget.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

from random_costs import bell_worth, offered_widths, random_case, staircase

from dmcp_deploy.artifact import write_text
from dmcp_deploy.network.cost import NetworkCost
from dmcp_deploy.network.models import build_network
from dmcp_deploy.plan import LOWEST_SHARE, NetworkSpec
from dmcp_deploy.search import markov
from dmcp_deploy.search.costs.limits import Limit, Limits
from dmcp_deploy.search.costs.macs import MacsCost
from dmcp_deploy.search.decode import decode
from dmcp_deploy.search.fit import fit_widths, scaled_widths, width_grid
from dmcp_deploy.search.space import SearchSpace, search_space
from dmcp_deploy.search.worth import log_worth, near_worth

MODELS = ("mobilenet_v2", "resnet50")
SHARES = (0.6, 0.45, 0.3)
SMALL_CASES = 200
SEEDS = 4


def main() -> None:
    """Writes how many small cases are optimal, seconds, and the plans beside those of fitting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoder.json"))
    out = parser.parse_args().out
    networks = {model: build_network(NetworkSpec(model, 1.0)) for model in MODELS}
    costs = {}
    for model, network in networks.items():
        space = search_space(network)
        costs[model] = MacsCost(NetworkCost(network), space), space
    results = {
        "small_cases": SMALL_CASES,
        "optimal": int(sum(map(_is_optimal, range(SMALL_CASES)))),
        "times": [row for model in MODELS for row in _times(model, *costs[model])],
        "compared": [row for model in MODELS for row in _compared(model, *costs[model])],
    }
    write_text(out, json.dumps(results, indent=1) + "\n")
    print(f"{results['optimal']} of {SMALL_CASES} small cases optimal")
    for row in [*results["times"], *results["compared"]]:
        print(row)


def _is_optimal(number: int) -> bool:
    shape, limits = ("chain", "star", "dense")[number % 3], 1 + number // 3 % 2
    case = random_case(np.random.default_rng(number), shape, limits)
    decoded = decode(*case)
    return decoded.is_proven and abs(decoded.worth - _best_worth(*case)) < 1e-9


def _best_worth(limits: Limits, axes: list[np.ndarray], worth: list[np.ndarray]) -> float:
    plans = itertools.product(*map(range, map(len, axes)))
    return max(
        sum(row[k] for row, k in zip(worth, plan, strict=True))
        for plan in plans
        if limits.is_met(np.array([axis[k] for axis, k in zip(axes, plan, strict=True)]))
    )


def _times(model: str, macs: MacsCost, space: SearchSpace) -> list[dict[str, object]]:
    rows = []
    for widths, share, seed in itertools.product((12, 64), SHARES, range(2)):
        axes, generator = offered_widths(space, widths), np.random.default_rng(seed)
        latency, worth = staircase(generator, macs, axes), bell_worth(generator, axes)
        both = [
            Limit(cost, share * cost.at(space.full), f"{share:.0%}") for cost in (macs, latency)
        ]
        for name, limits in (("macs", both[:1]), ("latency", both[1:]), ("both", both)):
            start = time.process_time()
            decoded = decode(Limits(tuple(limits)), axes, worth)
            seconds = time.process_time() - start
            rows.append((widths, name, seconds, decoded.is_proven, decoded.share))
    return [
        _summary(model, key, [row for row in rows if row[:2] == key])
        for key in itertools.product((12, 64), ("macs", "latency", "both"))
    ]


def _summary(model: str, key: tuple[int, str], rows: list[tuple]) -> dict[str, object]:
    seconds = [row[2] for row in rows]
    return {
        "model": model,
        "widths": key[0],
        "limits": key[1],
        "cases": len(rows),
        "proven": int(sum(row[3] for row in rows)),
        "median_s": round(float(np.median(seconds)), 3),
        "worst_s": round(float(max(seconds)), 3),
        "lowest_share": round(float(min(row[4] for row in rows)), 4),
    }


def _compared(model: str, macs: MacsCost, space: SearchSpace) -> list[dict[str, object]]:
    rows = []
    for align, seed in itertools.product((8, 16), range(SEEDS)):
        probabilities = _random_probabilities(space, seed)
        expected = float(macs.expected(probabilities))
        limits = Limits((Limit(macs, int(expected / 0.98), "the expectation"),))
        grid = width_grid(space, align)
        axes = grid.spread_axes()
        steps = torch.arange(probabilities.shape[1], dtype=torch.float64)
        wanted = space.minimum + space.step * (probabilities @ steps).numpy()
        target = scaled_widths(limits, grid, wanted)
        near = near_worth(target, axes)
        likely = log_worth(space, probabilities.numpy(), axes)
        plans = {
            "fit": fit_widths(limits, grid, wanted),
            "nearest": decode(limits, axes, near, least=LOWEST_SHARE).units,
            "likeliest": decode(limits, axes, likely, least=LOWEST_SHARE).units,
        }
        for name, units in plans.items():
            distance = np.mean(np.square(units / target - 1.0)) ** 0.5
            offered = [np.array([width]) for width in units]
            log = float(sum(row[0] for row in log_worth(space, probabilities.numpy(), offered)))
            rows.append((align, name, distance, log, limits.share(units)))
    return [
        {
            "model": model,
            "align": align,
            "plans": name,
            **{
                column: round(
                    float(np.mean([row[2 + i] for row in rows if row[:2] == (align, name)])), 4
                )
                for i, column in enumerate(("distance", "log_probability", "share"))
            },
        }
        for align, name in itertools.product((8, 16), ("fit", "nearest", "likeliest"))
    ]


def _random_probabilities(space: SearchSpace, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = 0.3 * torch.rand(len(space.names), 1, generator=generator, dtype=torch.float64)
    alphas = scale * torch.rand(space.mask.shape, generator=generator, dtype=torch.float64)
    return markov.width_probabilities(markov.marginal(markov.transition(alphas, space.mask)))


if __name__ == "__main__":
    main()
